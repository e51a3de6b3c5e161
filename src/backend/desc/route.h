// Which experts of a mixture each row goes to, and what comes back from them. Legend: T rows of the
// stream, E experts, K experts a row, M = T * K rows sorted by expert, D features. Arithmetic in
// fp32 (f64 for f64), one rounding to the output's dtype. Row-exact.
#pragma once

#include "tensor/view.h"

namespace hone {

// From logits to scores, from scores to the chosen and their weights. The choice is by
// score + correction; the weight is the score alone, / (sum + epsilon) if normalised, * factor.
struct RouteRule {
  enum class Scores : uint8_t { softmax, sigmoid } scores = Scores::softmax;
  bool normalise = false;
  float epsilon = 0;
  float factor = 1;
  // Experts lie in `groups` equal runs, of which the `kept_groups` best by the sum of their two
  // best choices take part (DeepSeek-V3); 1: no groups.
  int groups = 1;
  int kept_groups = 1;
};

struct RouteDesc {
  View logits;      // [T, E] bf16 or f32 (f64)
  View correction;  // [E] f32 (f64), or none
  View experts;     // [T, K] i32, out: best first, of equals the lower expert
  View weights;     // [T, K] bf16 or f32 (f64), out
  View score_sum;   // [E] f32 (f64), out: the scores' sum over all rows; or none
  RouteRule rule;
};

// The adjoint for weights and score_sum; the choice is a constant.
struct RouteBackwardDesc {
  View logits;      // [T, E]
  View experts;     // [T, K]
  View dweights;    // [T, K] f32 (f64), or none
  View dscore_sum;  // [E] f32 (f64), or none
  View dlogits;     // [T, E], dtype of logits, out
  RouteRule rule;
};

// y[t] = add[t] + sum over k, ascending, of weights[t, k] x[places[t, k]].
struct CombineDesc {
  View x;        // [M, D]
  View places;   // [T, K] i32: each of the M once
  View weights;  // [T, K] bf16 or f32 (f64), or none: 1
  View add;      // [T, D], or none; may be y
  View y;        // [T, D], dtype of x or f32
};

// dx[places[t, k]] = weights[t, k] dy[t]; dweights[t, k] = x[places[t, k]] . dy[t].
struct CombineBackwardDesc {
  View x;         // [M, D]; none without dweights
  View places;    // [T, K] i32
  View weights;   // [T, K]
  View dy;        // [T, D]
  View dx;        // [M, D], out; or none
  View dweights;  // [T, K] f32 (f64), out; or none
};

}  // namespace hone
