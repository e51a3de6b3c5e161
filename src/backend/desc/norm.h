// RMSNorm (Zhang and Sennrich, 2019) over the last dim. Legend: T rows, H heads, D features.
#pragma once

#include "tensor/view.h"

namespace hone {

// y = round(x * rsqrt(mean(x^2) + eps) * weight), all in fp32 (f64 for f64). x, y: [T, D] or [T, H,
// D] (strided), bf16, f32 or f64; y may be x. weight [D] bf16, f32 or f64. saved: rstd, one f32
// (f64) a row, or none.
struct RmsNormDesc {
  View x, weight, y, saved;
  double eps = 1e-6;
};

// dx (+)= gradient; with accumulate, dx = round(dx + gradient). dweight [D] f32 (f64) += sum over
// rows in an order that depends on shape only, or none. dx may be none, and dx may be dy.
struct RmsNormBackwardDesc {
  View x, weight, saved, dy, dx, dweight;
  bool accumulate = false;
};

}  // namespace hone
