#include "backend/cpu/gemm_check.h"

#include "backend/desc/gemm.h"
#include "backend/format.h"

namespace hone::cpu {
namespace {

bool matrix(const View& v) { return v.rank == 2 && (v.shape[1] <= 1 || v.stride[1] == 1); }

bool weight_shape(const WeightView& w, GemmOp op, int64_t n, int64_t k) {
  return op == GemmOp::nt ? w.rows == n && w.cols == k : w.rows == k && w.cols == n;
}

bool monotone(const int32_t* offsets, int groups, int64_t rows) {
  if (offsets[0] < 0) return false;
  for (int g = 0; g < groups; ++g) {
    if (offsets[g + 1] < offsets[g]) return false;
  }
  return offsets[groups] <= rows;
}

bool floating(DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::f64; }

double bytes(const View& v) {
  return static_cast<double>(v.numel()) * static_cast<double>(dtype_size(v.dtype));
}
double bytes(const WeightView& w) {
  return static_cast<double>(w.rows) * static_cast<double>(w.cols) *
         static_cast<double>(format_bits(w.format)) / 8;
}

}  // namespace

Status check_gemm(const GemmDesc& d, bool f64_allowed) {
  if (!matrix(d.x) || !matrix(d.y)) return {"gemm: x and y must be matrices with contiguous rows"};
  if (d.x.shape[0] != d.y.shape[0]) return {"gemm: x and y differ in rows"};
  if (d.weights == nullptr || d.groups < 1) return {"gemm: no weight"};
  if (d.groups > 1 && d.row_offsets == nullptr) return {"gemm: groups without row offsets"};
  if (d.row_offsets && !monotone(d.row_offsets, d.groups, d.x.shape[0]))
    return {"gemm: bad row offsets"};
  const int64_t n = gemm_n(d), k = gemm_k(d);
  const bool f64 = d.x.dtype == DType::f64;
  if (!floating(d.x.dtype)) return {"gemm: x must be bf16, fp32 or fp64"};
  if (f64 && !f64_allowed) return {"gemm: fp64 is for the reference path only"};
  if (f64 != (d.y.dtype == DType::f64) || !floating(d.y.dtype)) return {"gemm: dtype of y"};
  if (d.x.dtype == DType::f32 && d.y.dtype != DType::f32) return {"gemm: fp32 x needs fp32 y"};
  if (d.x2.none() != (d.weights2 == nullptr)) return {"gemm: x2 and weights2 go together"};
  const DType second = f64 ? DType::f64 : DType::f32;
  if (!d.x2.none() && (!matrix(d.x2) || d.x2.dtype != second || d.x2.shape[0] != d.x.shape[0])) {
    return {"gemm: x2 must be fp32 [T, R]"};
  }
  for (int g = 0; g < d.groups; ++g) {
    const WeightView& w = d.weights[g];
    if (!weight_shape(w, d.op, n, k)) return {"gemm: shape of a weight"};
    if (f64 != (w.format == Format::f64)) return {"gemm: format of a weight"};
    if (d.x.dtype == DType::bf16 && w.format == Format::f16)
      return {"gemm: bf16 x with an fp16 weight"};
    if (!format_fits(w)) return {"gemm: a weight's shape is not one that its format can hold"};
    if (d.weights2) {
      const WeightView& w2 = d.weights2[g];
      if (!weight_shape(w2, d.op, n, gemm_rank(d))) return {"gemm: shape of a second weight"};
      if (w2.format != (f64 ? Format::f64 : Format::f32))
        return {"gemm: second weight must be fp32"};
    }
  }
  if (!d.bias.none() && (d.bias.rank != 1 || d.bias.shape[0] != n || !floating(d.bias.dtype)))
    return {"gemm: bias"};
  if (!d.bias.none() && d.bias.dtype == DType::f64 && !f64) return {"gemm: fp64 bias"};
  if (!d.add.none()) {
    if (!matrix(d.add) || d.add.shape[0] != d.y.shape[0] || d.add.shape[1] != n)
      return {"gemm: shape of add"};
    if (d.add.dtype != d.y.dtype && d.add.dtype != second) return {"gemm: dtype of add"};
  }
  return {};
}

Status check_gemm_dw(const GemmDwDesc& d, bool f64_allowed) {
  if (!matrix(d.dy) || !matrix(d.x))
    return {"gemm_dw: dy and x must be matrices with contiguous rows"};
  if (d.dy.shape[0] != d.x.shape[0]) return {"gemm_dw: dy and x differ in rows"};
  if (d.dw == nullptr || d.groups < 1) return {"gemm_dw: no output"};
  if (d.groups > 1 && d.row_offsets == nullptr) return {"gemm_dw: groups without row offsets"};
  if (d.row_offsets && !monotone(d.row_offsets, d.groups, d.x.shape[0]))
    return {"gemm_dw: bad row offsets"};
  const bool f64 = d.dy.dtype == DType::f64;
  if (f64 && !f64_allowed) return {"gemm_dw: fp64 is for the reference path only"};
  if (!floating(d.dy.dtype) || !floating(d.x.dtype) || f64 != (d.x.dtype == DType::f64))
    return {"gemm_dw: dtypes"};
  for (int g = 0; g < d.groups; ++g) {
    const View& w = d.dw[g];
    if (!matrix(w) || w.shape[0] != d.dy.shape[1] || w.shape[1] != d.x.shape[1])
      return {"gemm_dw: shape of dw"};
    if (w.dtype != (f64 ? DType::f64 : DType::f32)) return {"gemm_dw: dw must be fp32"};
  }
  if (!d.dbias.none()) {
    if (d.groups != 1) return {"gemm_dw: dbias of a grouped call"};
    if (d.dbias.rank != 1 || d.dbias.shape[0] != d.dy.shape[1]) return {"gemm_dw: shape of dbias"};
    if (d.dbias.dtype != (f64 ? DType::f64 : DType::f32)) return {"gemm_dw: dbias must be fp32"};
  }
  return {};
}

Cost gemm_cost(const GemmDesc& d) {
  const double rows = static_cast<double>(d.x.shape[0]), n = static_cast<double>(gemm_n(d));
  Cost c;
  c.flops = 2 * rows * n * static_cast<double>(gemm_k(d) + gemm_rank(d));
  c.bytes = bytes(d.x) + bytes(d.y) + bytes(d.x2) + bytes(d.bias) + bytes(d.add);
  for (int g = 0; g < d.groups; ++g) {
    if (gemm_rows_end(d.row_offsets, g, d.x.shape[0]) == gemm_rows_begin(d.row_offsets, g))
      continue;
    c.bytes += bytes(d.weights[g]);
    if (d.weights2) c.bytes += bytes(d.weights2[g]);
  }
  return c;
}

Cost gemm_dw_cost(const GemmDwDesc& d) {
  Cost c;
  c.flops = 2 * static_cast<double>(d.x.shape[0]) * static_cast<double>(d.x.shape[1]) *
            static_cast<double>(d.dy.shape[1]);
  c.bytes = bytes(d.x) + bytes(d.dy);
  for (int g = 0; g < d.groups; ++g) c.bytes += 2 * bytes(d.dw[g]);
  return c;
}

}  // namespace hone::cpu
