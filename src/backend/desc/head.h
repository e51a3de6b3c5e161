// The fused output head: linear + log-softmax. Logits exist a block at a time, never for the whole
// stream. Legend: R labelled rows, D hidden, V vocabulary.
#pragma once

#include "tensor/view.h"

namespace hone {

constexpr int kVocabChunk =
    1024;  // log-sum-exp is taken within chunks of this many entries, merged in ascending order.

// logits = x Wᵀ (fp32, the bits of gemm); logprob[r] = inv_temperature[r] * logits[r][targets[r]] -
// lse_r, where lse is of the scaled logits; entropy = that of the scaled distribution. Row-exact,
// and the same bits whichever outputs are asked for. If dlogprob is given, dx = dL/dx is computed
// in the same pass (probabilities as in flash attention: unnormalised, rounded to x's dtype for
// their product, rescaled), so that the vocabulary matrix is multiplied twice, not three times.
struct HeadDesc {
  View x;                // [R, D] bf16, f32 or f64
  WeightView weight;     // [V, D]
  View targets;          // [R] i32, or none (then logprob is none too)
  View inv_temperature;  // [R] f32, or none: 1
  View logprob;          // [R] f32 (f64)
  View entropy;          // [R] f32 (f64), or none
  View saved;            // lse [R] f32 or f64
  View logits;           // [R, V] f32 (f64), unscaled, or none
  View dlogprob;         // [R] f32 (f64), or none
  View dx;               // [R, D] dtype of x, assigned; none without dlogprob
};

// The adjoint where dL/dlogprob is known only later, or the weight is trained. dx assigned (or
// none); dweight [V, D] f32 (f64) += (or none). dentropy may be none.
struct HeadBackwardDesc {
  View x;
  WeightView weight;
  View targets, inv_temperature;
  View saved;    // lse of the forward pass
  View entropy;  // of the forward pass; needed with dentropy
  View dlogprob;
  View dentropy;
  View dx;
  View dweight;
};

}  // namespace hone
