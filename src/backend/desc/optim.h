// Optimizer kernels over flat arrays of n elements.
#pragma once

#include "tensor/view.h"

namespace hone {

// AdamW (Loshchilov and Hutter, 2019), in fp32: g = grad_scale * grad; m = beta1 m + (1-beta1) g; v
// = beta2 v + (1-beta2) g^2; p = p (1 - lr weight_decay) - lr (m / (1-beta1^step)) / (sqrt(v /
// (1-beta2^step)) + eps), as torch.optim.AdamW orders it. param is the fp32 master; weight, if
// given, receives round(param).
struct AdamWDesc {
  View param;                // [n] f32
  View grad;                 // [n] f32
  View exp_avg, exp_avg_sq;  // [n] f32
  View weight;               // [n] bf16 or f32, or none
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  double grad_scale = 1;
  int64_t step = 1;  // from 1
};

// out[0] (f64) += sum of x^2, in f64, in chunks that depend on n only, added in order. Not finite
// if x holds a NaN or infinity.
struct SumSquaresDesc {
  View x;    // [n] f32
  View out;  // [1] f64
};

}  // namespace hone
