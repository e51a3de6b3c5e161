// Causal grouped-query attention over a packed stream, pages or a shared prefix: three ways to fill
// one key table. Legend: T query rows, S key rows, H query heads, K key heads (H a multiple of K),
// D head dim of queries and keys, E of values and outputs (any sizes from 1 to 576).
#pragma once

#include "tensor/view.h"

namespace hone {

constexpr int kKeyBlock =
    64;  // keys are reduced in blocks of 64 counted from the sequence's first key,
constexpr int kKeyChunk =
    1024;  // online within chunks of 1024 keys, chunks merged in ascending order.

// Where one block of (up to) 64 keys of a sequence lies among the rows of k and v: its first
// `split` keys at rows row.., the rest at rows row_after.. (a shared prefix may end inside a
// block).
struct KeyBlock {
  int32_t row = 0;
  int32_t split = kKeyBlock;
  int32_t row_after = -1;
};

// Queries [q_begin, q_begin + q_len) of the stream attend to the sequence's first kv_len keys,
// causally: the last query sees all kv_len keys, query i sees kv_len - q_len + i + 1 of them.
// Its ceil(kv_len / 64) entries of the table of key blocks begin at first_block.
struct AttentionSegment {
  int32_t q_begin = 0;
  int32_t q_len = 0;
  int32_t kv_len = 0;
  int32_t first_block = 0;
};

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
