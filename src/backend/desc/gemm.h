// Matrix products with a weight. Legend: T rows of the token stream, K reduction, N output
// features, R low rank, G groups.
#pragma once

#include "tensor/view.h"

namespace hone {

enum class GemmOp : uint8_t {
  nt,  // y = x Wᵀ, W [N, K] as in the file: the forward product of a linear layer
  nn,  // y = x W,  W [K, N] as in the file: the input gradient (x = dy, K = out features, N = in
       // features)
};

// y[T, N] = round(alpha * x[T, K] op(W) + x2[T, R] op(W2) + bias[N] + add[T, N])
//
// Sums are in fp32 (f64 if x is f64) in one fixed order over K that does not depend on T; there is
// one rounding, to y's dtype. Row-exact. Grouped: group g multiplies rows [row_offsets[g],
// row_offsets[g+1]) by weights[g]; all groups share N and K; groups may be empty. (x, W, y) dtypes:
// bf16 x with a bf16 or f32 weight, y bf16 or f32; f32 x with an f32, bf16 or f16 weight, y f32;
// f64 all. x2 is f32 (the low-rank activations z of LoRA, already scaled) and W2 f32: nt: [N, R];
// nn: [R, N]; products of these keep a relative accuracy of 2^-15 or better. A bf16 x times an f32
// weight (LoRA A) likewise.
struct GemmDesc {
  GemmOp op = GemmOp::nt;
  View x;                               // [T, K]
  const WeightView* weights = nullptr;  // [G]
  int groups = 1;
  const int32_t* row_offsets = nullptr;  // [G + 1], host; null when groups == 1
  View y;                                // [T, N], out; must not overlap x
  View x2;                               // [T, R] f32, or none
  const WeightView* weights2 = nullptr;  // [G], or null
  View bias;                             // [N] f32, bf16 or f64, or none
  View add;                              // [T, N] of y's dtype or f32, or none; may be y itself
  float alpha = 1;
};

// dw[g][N, K] += alpha * dyᵀ x over the rows of group g; dw is f32 (f64 if dy is f64), contiguous
// rows. dy [T, N] and x [T, K] are bf16 or f32 each (f64 both). The sum over T is cut into chunks
// that depend on shape only. dbias[N] f32 += column sums of dy (groups == 1), or none.
struct GemmDwDesc {
  View dy;
  View x;
  const View* dw = nullptr;  // [G]
  int groups = 1;
  const int32_t* row_offsets = nullptr;
  View dbias;
  float alpha = 1;
};

}  // namespace hone
