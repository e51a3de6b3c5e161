// The token log-prob waist: from hidden states to log-probs of labelled tokens, and their adjoint.
// Legend: R labelled rows, D hidden.
#pragma once

#include "exec/context.h"

namespace hone::ops {

// y[R, D] = x[rows]; rows [R] i32, distinct.
Tensor gather_rows(Context& ctx, const Tensor& x, const Tensor& rows);

struct HeadOptions {
  Tensor inv_temperature;  // [R] f32; undefined: 1
  bool entropy = false;
  // dL/dlogprob [R] where it is known beforehand (SFT, the first on-policy step): the gradient of x
  // is then made in the forward pass.
  Tensor dlogprob;
  Tensor logits;  // [R, V] fp32 to be filled, unscaled; undefined: not wanted
};

struct TokenLogprobs {
  Tensor logprob;  // [R] fp32 (f64 in an f64 run); with a slot if its adjoint is due
  Tensor entropy;  // [R] or undefined; likewise
};

// log-softmax(inv_temperature * x Wᵀ)[targets] for each row; targets [R] i32.
TokenLogprobs token_logprobs(Context& ctx, ParamId weight, const Tensor& x, const Tensor& targets,
                             const HeadOptions& options);

// x Wᵀ [R, V] fp32 and the log-sum-exp of each row [R] f64: for sampling. logits[j] - lse, in
// double and rounded to fp32, is the log-prob of token j with the bits of token_logprobs.
struct Logits {
  Tensor logits, lse;
};
Logits head_logits(Context& ctx, ParamId weight, const Tensor& x);

}  // namespace hone::ops
