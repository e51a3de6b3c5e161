// Kernels over lists of flat arrays: one launch for all parameters, however many. The lists lie in
// the host's memory and live until run() returns; their arrays don't overlap.
#pragma once

#include <span>

#include "tensor/view.h"

namespace hone {

// One parameter's: param is the fp32 master; weight, if given, receives round(param).
struct AdamWArrays {
  float* param = nullptr;  // [n]
  const float* grad = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  void* weight = nullptr;            // [n] or null
  DType weight_dtype = DType::bf16;  // bf16 or f32
  int64_t n = 0;
  double weight_decay = 0;
};

// AdamW (Loshchilov and Hutter, 2019), in fp32: g = grad_scale * grad; m = beta1 m + (1-beta1) g; v
// = beta2 v + (1-beta2) g^2; p = p (1 - lr weight_decay) - lr (m / (1-beta1^step)) / (sqrt(v /
// (1-beta2^step)) + eps), as torch.optim.AdamW orders it.
struct AdamWDesc {
  std::span<const AdamWArrays> list;
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double grad_scale = 1;
  int64_t step = 1;  // from 1
};

struct FloatArray {
  const float* data = nullptr;
  int64_t n = 0;
};
// out[0] (f64) += each array's sum of x^2, in list order; a sum in f64, in chunks that depend on n
// only, added in order. Not finite if an array holds a NaN or infinity.
struct SumSquaresDesc {
  std::span<const FloatArray> list;
  View out;  // [1] f64
};

struct ByteArray {
  void* data = nullptr;
  int64_t n = 0;
};
// Every byte set to zero.
struct ZeroDesc {
  std::span<const ByteArray> list;
};

}  // namespace hone
