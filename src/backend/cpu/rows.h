// What the row-wise kernels share: the instruction path of a run function, walking strided views
// row by row, sharing rows out.
#pragma once

#include <algorithm>
#include <utility>

#include "backend/cpu/cpu.h"
#include "backend/cpu/expand.h"
#include "backend/cpu/rowops.h"

namespace hone::cpu {

inline const RowOps& row_ops(Isa isa) {
  switch (isa) {
    case Isa::reference:
      return kRowOpsReference;
    case Isa::scalar:
      return kRowOpsScalar;
    case Isa::avx2:
      return kRowOpsAvx2;
    default:
      return kRowOpsAvx512;
  }
}

// A table entry is a plain function, so each path gets its own: by_isa<Desc, impl>(isa) calls
// impl(that path, ctx, desc).
template <class Desc, Status (*impl)(Isa, const KernelCtx&, const Desc&)>
auto by_isa(Isa isa) -> Status (*)(const KernelCtx&, const Desc&) {
  switch (isa) {
    case Isa::reference:
      return [](const KernelCtx& c, const Desc& d) { return impl(Isa::reference, c, d); };
    case Isa::scalar:
      return [](const KernelCtx& c, const Desc& d) { return impl(Isa::scalar, c, d); };
    case Isa::avx2:
      return [](const KernelCtx& c, const Desc& d) { return impl(Isa::avx2, c, d); };
    case Isa::avx512:
      return [](const KernelCtx& c, const Desc& d) { return impl(Isa::avx512, c, d); };
    case Isa::avx512bf16:
      return [](const KernelCtx& c, const Desc& d) { return impl(Isa::avx512bf16, c, d); };
    case Isa::amx:
      return [](const KernelCtx& c, const Desc& d) { return impl(Isa::amx, c, d); };
  }
  return nullptr;
}

inline bool is_float(Isa isa, DType t) {
  return t == DType::f32 || t == DType::bf16 || (t == DType::f64 && isa == Isa::reference);
}
inline bool is_float(Isa isa, const View& v) { return is_float(isa, v.dtype); }

// Rows are all dims but the last.
inline int64_t row_count(const View& v) {
  int64_t n = 1;
  for (int i = 0; i + 1 < v.rank; ++i) n *= v.shape[i];
  return n;
}
inline int64_t row_size(const View& v) { return v.rank == 0 ? 0 : v.shape[v.rank - 1]; }

inline Span at(const View& v, int64_t element) {
  return {static_cast<char*>(v.data) + element * static_cast<int64_t>(dtype_size(v.dtype)),
          v.dtype};
}
// Offset in elements of index i counted over the first `dims` dims.
inline int64_t offset(const View& v, int64_t i, int dims) {
  int64_t o = 0;
  for (int d = dims - 1; d > 0; --d) {
    o += i % v.shape[d] * v.stride[d];
    i /= v.shape[d];
  }
  return dims > 0 ? o + i * v.stride[0] : 0;
}
inline Span row_span(const View& v, int64_t row) { return at(v, offset(v, row, v.rank - 1)); }
inline Span weight_row(const WeightView& w, int64_t row) {
  return {const_cast<char*>(static_cast<const char*>(w.data)) + row * w.stride_bytes,
          format_dtype(w.format)};
}

// fn(numbers, column, how many) for a weight's row: as it lies, or in pieces, expanded to the dtype
// in which x's products take it.
template <class Fn>
void for_weight_row(Isa isa, const WeightView& w, int64_t row, DType x, Fn fn) {
  if (format_layout(w.format).plain) return fn(weight_row(w, row), 0, w.cols);
  const DType as = x == DType::bf16 ? DType::bf16 : DType::f32;
  for (int64_t col = 0; col < w.cols; col += kExpandRun) {
    float piece[kExpandRun];
    const int64_t n = std::min(kExpandRun, w.cols - col);
    expand_weight_row(isa, w, row, col, n, as, piece);
    fn(Span{piece, as}, col, n);
  }
}

inline bool same_shape(const View& a, const View& b) {
  return a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}
inline bool contiguous(const View& v) {
  int64_t stride = 1;
  for (int i = v.rank - 1; i >= 0; --i) {
    if (v.shape[i] != 1 && v.stride[i] != stride) return false;
    stride *= v.shape[i];
  }
  return true;
}
inline bool last_dim_ok(const View& v) {
  return v.rank == 0 || v.shape[v.rank - 1] <= 1 || v.stride[v.rank - 1] == 1;
}

// fn(row) for all rows, in tasks of about 128 kB of row_bytes; small work is one task. Sharing out
// never changes results.
template <class F>
void for_rows(const KernelCtx& ctx, int64_t rows, int64_t row_bytes, F fn) {
  const int64_t grain = std::max<int64_t>(1, (128 << 10) / std::max<int64_t>(1, row_bytes));
  const int64_t tasks = (rows + grain - 1) / grain;
  const auto task = [&](int64_t t, int) {
    const int64_t end = std::min(rows, (t + 1) * grain);
    for (int64_t r = t * grain; r < end; ++r) fn(r);
  };
  if (tasks <= 1 || ctx.pool == nullptr) {
    for (int64_t t = 0; t < tasks; ++t) task(t, 0);
  } else {
    ctx.pool->run(tasks, task);
  }
}

inline double view_bytes(const View& v) {
  return static_cast<double>(v.numel()) * static_cast<double>(dtype_size(v.dtype));
}

}  // namespace hone::cpu
