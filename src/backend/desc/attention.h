// Causal grouped-query attention over a packed stream, pages or a shared prefix: three ways to fill
// one key table. Legend: T query rows, S key rows, H query heads, K key heads (H a multiple of K),
// D head dim of queries and keys, E of values and outputs (any sizes from 1 to 576).
#pragma once

#include "backend/desc/key_blocks.h"
#include "tensor/view.h"

namespace hone {

// out = softmax(scale * q kᵀ) v per segment and head; head h reads key head h / (H/K). Scores,
// maxima, sums and the output accumulator are fp32 (f64 for f64); probabilities are rounded to the
// dtype of v for their product. Row-exact: a row's bits depend only on its own q and its keys, in
// the order above; never on other rows, on q_len or on where blocks lie. All bf16, all f32 or all
// f64. saved: opaque to the caller (for example the log-sum-exp [T, H] f32).
struct AttentionDesc {
  View q;      // [T, H, D]
  View k;      // [S, K, D]
  View v;      // [S, K, E]
  View out;    // [T, H, E]
  View saved;  // none at inference
  const KeyBlock* blocks = nullptr;
  const AttentionSegment* segments = nullptr;
  int num_segments = 0;
  float scale = 1;
};

// Gradients, for segments whose keys are rows of this same stream or of an earlier segment. dq, dk,
// dv are assigned (not added to), rows that no segment touches are left alone. Deterministic for
// any number of threads.
struct AttentionBackwardDesc {
  View q, k, v, out, saved;
  View dout;        // [T, H, E]
  View dq, dk, dv;  // shapes of q, k, v
  const KeyBlock* blocks = nullptr;
  const AttentionSegment* segments = nullptr;
  int num_segments = 0;
  float scale = 1;
};

}  // namespace hone
