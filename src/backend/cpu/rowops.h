// The inner loops of the row-wise kernels: one table of plain functions an instruction path. The
// kernels around them (norm.cpp, elementwise.cpp, head.cpp, optim.cpp) check shapes, walk the views
// and share out the work; these see one row at a time. Plain data only: this header is included by
// files compiled with instruction-set flags.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace hone::cpu {

// Tags of element types.
struct F32 {};
struct Bf16 {};
struct F16 {};
struct F64 {};

// n contiguous elements (n is passed beside it), or none (null).
struct Span {
  void* data;
  DType dtype;
};

struct AdamWStep {
  double grad_scale, beta1, beta2, decay, step_size, inv_sqrt_bias2, eps;
};

// Arithmetic is fp32, fp64 in the reference path. Outputs may be the inputs. A row's result depends
// on its own data and n alone.
struct RowOps {
  // Returns rstd.
  double (*rms_norm)(Span x, Span w, Span y, int64_t n, double eps);
  // dw (f32, or f64 for f64 x), if given, is added to.
  void (*rms_norm_backward)(Span x, Span w, Span dy, Span dx, Span dw, int64_t n, double rstd,
                            bool accumulate);
  // x and y: heads rows of d elements, x_stride and y_stride elements apart.
  void (*rope)(Span x, int64_t x_stride, Span y, int64_t y_stride, int64_t heads, Span table,
               int64_t d, bool inverse);
  void (*swiglu)(Span gate, Span up, Span y, int64_t n);
  void (*swiglu_backward)(Span gate, Span up, Span dy, Span dgate, Span dup, int64_t n);
  void (*add)(Span a, Span b, Span y, int64_t n);
  void (*convert)(Span x, Span y, int64_t n, double alpha);  // x may be f16
  void (*dropout)(Span x, Span y, int64_t n, uint64_t row_id, uint64_t seed, uint64_t salt, float p,
                  bool accumulate);
  void (*adamw)(Span param, Span grad, Span m, Span v, Span weight, int64_t n,
                const AdamWStep* step);
  double (*sum_squares)(const float* x, int64_t n);
  void (*scale)(Span x, int64_t n, double factor);

  // The head. z = inv_t * logits. Probabilities are kept relative to a power of two 2^k, k a whole
  // number, so that changing k is exact.
  double (*head_max)(Span logits, int64_t n, double inv_t);
  // sum = sum of e = exp(z) 2^-k; moment (if not null) = sum of e (z - k ln 2); p (if given) = e in
  // p's dtype; p may start where logits does.
  void (*head_exp)(Span logits, int64_t n, double inv_t, double k, Span p, double* sum,
                   double* moment);
  // out = -exp(z - lse) (a + b (z - lse + entropy)); out may start where logits does.
  void (*head_dlogits)(Span logits, int64_t n, double inv_t, double lse, double a, double b,
                       double entropy, Span out);
  // dx = scale (w - inv_sum u); w may be f16.
  void (*head_dx)(Span w, Span u, Span dx, int64_t n, double scale, double inv_sum);
};

extern const RowOps kRowOpsReference, kRowOpsScalar, kRowOpsAvx2, kRowOpsAvx512;

}  // namespace hone::cpu
