// RoPE, SwiGLU, addition, conversion, dropout on the CPU. Legend: T rows, H heads, D head dim, F
// features.
#include <cmath>

#include "backend/cpu/rows.h"
#include "backend/desc/elementwise.h"

namespace hone::cpu {
namespace {

int64_t bytes_of(const View& v) { return row_size(v) * static_cast<int64_t>(dtype_size(v.dtype)); }

Status run_rope_table(Isa isa, const KernelCtx& ctx, const RopeTableDesc& d) {
  const int64_t rows = d.positions.numel(), half = d.inv_freq.numel();
  if (d.positions.rank != 1 || d.positions.dtype != DType::i32) return {"rope_table: positions"};
  if (d.inv_freq.rank != 1 || d.inv_freq.dtype != DType::f32) return {"rope_table: inv_freq"};
  if (d.table.rank != 2 || d.table.shape[0] != rows || d.table.shape[1] != 2 * half ||
      (d.table.dtype != DType::f32 && !(d.table.dtype == DType::f64 && isa == Isa::reference))) {
    return {"rope_table: table"};
  }
  // Sine and cosine cost some 40 ns here, so count 32 bytes an entry.
  for_rows(ctx, rows, 2 * half * 32, [&](int64_t t) {
    const float position = static_cast<float>(d.positions.as<int32_t>()[t * d.positions.stride[0]]);
    for (int64_t i = 0; i < half; ++i) {
      const float angle = position * d.inv_freq.as<float>()[i];
      const double c = std::cos(static_cast<double>(angle));
      const double s = std::sin(static_cast<double>(angle));
      if (d.table.dtype == DType::f64) {
        d.table.row<double>(t)[i] = c * static_cast<double>(d.scale);
        d.table.row<double>(t)[half + i] = s * static_cast<double>(d.scale);
      } else {
        d.table.row<float>(t)[i] = static_cast<float>(c) * d.scale;
        d.table.row<float>(t)[half + i] = static_cast<float>(s) * d.scale;
      }
    }
  });
  return {};
}

// Neighbours as halves and back, through a row of the type computed in.
template <class T, class Wide>
void rope_interleaved(const RowOps& ops, const RopeDesc& d, int64_t t) {
  constexpr int64_t kMost = 1024;
  Wide halves[kMost];
  const int64_t size = d.x.shape[2], half = size / 2;
  for (int64_t h = 0; h < d.x.shape[1]; ++h) {
    const T* x = d.x.row<T>(t) + h * d.x.stride[1];
    T* y = d.y.row<T>(t) + h * d.y.stride[1];
    for (int64_t i = 0; i < half; ++i) {
      halves[i] = static_cast<Wide>(x[2 * i]);
      halves[half + i] = static_cast<Wide>(x[2 * i + 1]);
    }
    const Span row{halves, sizeof(Wide) == 8 ? DType::f64 : DType::f32};
    ops.rope(row, size, row, size, 1, at(d.table, t * d.table.stride[0]), size, d.inverse);
    for (int64_t i = 0; i < half; ++i) {
      y[2 * i] = static_cast<T>(halves[i]);
      y[2 * i + 1] = static_cast<T>(halves[half + i]);
    }
  }
}

Status run_rope(Isa isa, const KernelCtx& ctx, const RopeDesc& d) {
  if (d.x.rank != 3 || !same_shape(d.x, d.y) || d.table.rank != 2) return {"rope: shapes"};
  const int64_t heads = d.x.shape[1], size = d.x.shape[2];
  if (size % 2 != 0 || d.table.shape[0] != d.x.shape[0] || d.table.shape[1] != size) {
    return {"rope: the table is [T, D], D even"};
  }
  if (!is_float(isa, d.x) || !is_float(isa, d.y) || !is_float(isa, d.table)) return {"rope: dtype"};
  if (!last_dim_ok(d.x) || !last_dim_ok(d.y) || !last_dim_ok(d.table)) return {"rope: layout"};
  const RowOps& ops = row_ops(isa);
  if (d.interleaved && (size > 1024 || d.x.dtype != d.y.dtype))
    return {"rope: interleaved heads have at most 1024 columns, and one dtype"};
  for_rows(ctx, d.x.shape[0], 2 * heads * bytes_of(d.x), [&](int64_t t) {
    if (d.interleaved) {
      if (d.x.dtype == DType::f64) return rope_interleaved<double, double>(ops, d, t);
      if (d.x.dtype == DType::f32) return rope_interleaved<float, float>(ops, d, t);
      return rope_interleaved<bf16, float>(ops, d, t);
    }
    ops.rope(at(d.x, t * d.x.stride[0]), d.x.stride[1], at(d.y, t * d.y.stride[0]), d.y.stride[1],
             heads, at(d.table, t * d.table.stride[0]), size, d.inverse);
  });
  return {};
}

// Elementwise work goes row by row, or, where every view is contiguous, in pieces of 8192 elements.
constexpr int64_t kPiece = 8192;
template <class F>
void for_pieces(const KernelCtx& ctx, const View& shape, bool flat, int64_t element_bytes, F fn) {
  if (!flat) {
    const int64_t n = row_size(shape);
    for_rows(ctx, row_count(shape), n * element_bytes,
             [&](int64_t r) { fn([r](const View& v) { return row_span(v, r); }, n); });
    return;
  }
  const int64_t total = shape.numel();
  for_rows(ctx, (total + kPiece - 1) / kPiece, kPiece * element_bytes, [&](int64_t c) {
    fn([c](const View& v) { return at(v, c * kPiece); }, std::min(kPiece, total - c * kPiece));
  });
}

Status run_swiglu(Isa isa, const KernelCtx& ctx, const SwigluDesc& d) {
  if (d.gate.rank < 1 || !same_shape(d.gate, d.up) || !same_shape(d.gate, d.y)) {
    return {"swiglu: shapes"};
  }
  if (!is_float(isa, d.gate) || !is_float(isa, d.up) || !is_float(isa, d.y)) {
    return {"swiglu: dtype"};
  }
  if (!last_dim_ok(d.gate) || !last_dim_ok(d.up) || !last_dim_ok(d.y)) return {"swiglu: layout"};
  const RowOps& ops = row_ops(isa);
  const bool flat = contiguous(d.gate) && contiguous(d.up) && contiguous(d.y);
  for_pieces(ctx, d.gate, flat, 3 * static_cast<int64_t>(dtype_size(d.gate.dtype)),
             [&](auto span, int64_t n) { ops.swiglu(span(d.gate), span(d.up), span(d.y), n); });
  return {};
}

Status run_swiglu_backward(Isa isa, const KernelCtx& ctx, const SwigluBackwardDesc& d) {
  for (const View* v : {&d.gate, &d.up, &d.dy, &d.dgate, &d.dup}) {
    if (v->rank < 1 || !same_shape(d.gate, *v) || !last_dim_ok(*v)) {
      return {"swiglu_backward: shapes"};
    }
    if (!is_float(isa, *v) || (v != &d.dy && v->dtype != d.gate.dtype)) {
      return {"swiglu_backward: dtype"};
    }
  }
  const RowOps& ops = row_ops(isa);
  const bool flat = contiguous(d.gate) && contiguous(d.up) && contiguous(d.dy) &&
                    contiguous(d.dgate) && contiguous(d.dup);
  for_pieces(ctx, d.gate, flat, 5 * static_cast<int64_t>(dtype_size(d.gate.dtype)),
             [&](auto span, int64_t n) {
               ops.swiglu_backward(span(d.gate), span(d.up), span(d.dy), span(d.dgate), span(d.dup),
                                   n);
             });
  return {};
}

Status run_add(Isa isa, const KernelCtx& ctx, const AddDesc& d) {
  if (d.a.rank < 1 || !same_shape(d.a, d.b) || !same_shape(d.a, d.y)) return {"add: shapes"};
  if (!is_float(isa, d.a) || !is_float(isa, d.b) || !is_float(isa, d.y)) return {"add: dtype"};
  if (!last_dim_ok(d.a) || !last_dim_ok(d.b) || !last_dim_ok(d.y)) return {"add: layout"};
  const RowOps& ops = row_ops(isa);
  const bool flat = contiguous(d.a) && contiguous(d.b) && contiguous(d.y);
  for_pieces(ctx, d.a, flat, 3 * static_cast<int64_t>(dtype_size(d.y.dtype)),
             [&](auto span, int64_t n) { ops.add(span(d.a), span(d.b), span(d.y), n); });
  return {};
}

// Conversion is a boundary (files in, statistics out), so every path takes f64 here: what fp32
// arithmetic would lose goes by the reference.
Status run_convert(Isa isa, const KernelCtx& ctx, const ConvertDesc& d) {
  if (d.x.rank < 1 || !same_shape(d.x, d.y)) return {"convert: shapes"};
  if (!(is_float(Isa::reference, d.x) || d.x.dtype == DType::f16) ||
      !is_float(Isa::reference, d.y)) {
    return {"convert: dtype"};
  }
  if (!last_dim_ok(d.x) || !last_dim_ok(d.y)) return {"convert: layout"};
  const bool wide = d.x.dtype == DType::f64 || d.y.dtype == DType::f64;
  const RowOps& ops = row_ops(wide ? Isa::reference : isa);
  const double alpha = static_cast<double>(d.alpha);
  for_pieces(ctx, d.x, contiguous(d.x) && contiguous(d.y),
             static_cast<int64_t>(dtype_size(d.x.dtype) + dtype_size(d.y.dtype)),
             [&](auto span, int64_t n) { ops.convert(span(d.x), span(d.y), n, alpha); });
  return {};
}

Status run_sum_heads(Isa isa, const KernelCtx& ctx, const SumHeadsDesc& d) {
  constexpr int64_t kMost = 1024;
  if (d.x.rank != 3 || d.y.rank != 2 || d.y.shape[0] != d.x.shape[0] ||
      d.y.shape[1] != d.x.shape[2] || d.y.shape[1] > kMost) {
    return {"sum_heads: x is [T, H, D], y [T, D], D at most 1024"};
  }
  if (!is_float(isa, d.x) || !is_float(isa, d.y)) return {"sum_heads: dtype"};
  if (!last_dim_ok(d.x) || !last_dim_ok(d.y)) return {"sum_heads: layout"};
  const RowOps& ops = row_ops(isa);
  const int64_t heads = d.x.shape[1], size = d.x.shape[2];
  for_rows(ctx, d.x.shape[0], heads * bytes_of(d.x), [&](int64_t t) {
    double wide[kMost] = {};  // fp64 on the reference path, else its bytes hold fp32
    const Span sum{wide, isa == Isa::reference ? DType::f64 : DType::f32};
    for (int64_t h = 0; h < heads; ++h)
      ops.add(sum, at(d.x, t * d.x.stride[0] + h * d.x.stride[1]), sum, size);
    ops.convert(sum, at(d.y, t * d.y.stride[0]), size, 1);
  });
  return {};
}

Status run_dropout(Isa isa, const KernelCtx& ctx, const DropoutDesc& d) {
  if (d.x.rank != 2 || !same_shape(d.x, d.y)) return {"dropout: x and y are [T, K]"};
  if (d.row_ids.rank != 1 || d.row_ids.shape[0] != d.x.shape[0] || d.row_ids.dtype != DType::i64) {
    return {"dropout: row_ids are [T] i64"};
  }
  if (!is_float(isa, d.x) || !is_float(isa, d.y)) return {"dropout: dtype"};
  if (!last_dim_ok(d.x) || !last_dim_ok(d.y)) return {"dropout: layout"};
  if (!(d.p >= 0 && d.p < 1)) return {"dropout: p is in [0, 1)"};
  const RowOps& ops = row_ops(isa);
  for_rows(ctx, d.x.shape[0], 4 * bytes_of(d.x), [&](int64_t t) {
    const int64_t id = d.row_ids.as<int64_t>()[t * d.row_ids.stride[0]];
    ops.dropout(row_span(d.x, t), row_span(d.y, t), d.x.shape[1], static_cast<uint64_t>(id), d.seed,
                d.salt, d.p, d.accumulate);
  });
  return {};
}

double count(const View& v) { return static_cast<double>(v.numel()); }
Cost rope_table_cost(const RopeTableDesc& d) { return {20 * count(d.table), view_bytes(d.table)}; }
Cost rope_cost(const RopeDesc& d) {
  return {3 * count(d.x), view_bytes(d.x) + view_bytes(d.y) + view_bytes(d.table)};
}
Cost swiglu_cost(const SwigluDesc& d) {
  return {16 * count(d.y), view_bytes(d.gate) + view_bytes(d.up) + view_bytes(d.y)};
}
Cost swiglu_backward_cost(const SwigluBackwardDesc& d) {
  return {22 * count(d.dy), view_bytes(d.gate) + view_bytes(d.up) + view_bytes(d.dy) +
                                view_bytes(d.dgate) + view_bytes(d.dup)};
}
Cost add_cost(const AddDesc& d) {
  return {count(d.y), view_bytes(d.a) + view_bytes(d.b) + view_bytes(d.y)};
}
Cost convert_cost(const ConvertDesc& d) { return {count(d.y), view_bytes(d.x) + view_bytes(d.y)}; }
Cost sum_heads_cost(const SumHeadsDesc& d) {
  return {count(d.x), view_bytes(d.x) + view_bytes(d.y)};
}
Cost dropout_cost(const DropoutDesc& d) {
  return {25 * count(d.y), view_bytes(d.x) + view_bytes(d.y) * (d.accumulate ? 2 : 1)};
}

}  // namespace

Kernel<RopeTableDesc> rope_table(Isa isa) {
  return {by_isa<RopeTableDesc, run_rope_table>(isa), nullptr, nullptr, rope_table_cost, true};
}
Kernel<RopeDesc> rope(Isa isa) {
  return {by_isa<RopeDesc, run_rope>(isa), nullptr, nullptr, rope_cost, true};
}
Kernel<SwigluDesc> swiglu(Isa isa) {
  return {by_isa<SwigluDesc, run_swiglu>(isa), nullptr, nullptr, swiglu_cost, true};
}
Kernel<SwigluBackwardDesc> swiglu_backward(Isa isa) {
  return {by_isa<SwigluBackwardDesc, run_swiglu_backward>(isa), nullptr, nullptr,
          swiglu_backward_cost, true};
}
Kernel<AddDesc> add(Isa isa) {
  return {by_isa<AddDesc, run_add>(isa), nullptr, nullptr, add_cost, true};
}
Kernel<ConvertDesc> convert(Isa isa) {
  return {by_isa<ConvertDesc, run_convert>(isa), nullptr, nullptr, convert_cost, true};
}
Kernel<SumHeadsDesc> sum_heads(Isa isa) {
  return {by_isa<SumHeadsDesc, run_sum_heads>(isa), nullptr, nullptr, sum_heads_cost, true};
}
Kernel<DropoutDesc> dropout(Isa isa) {
  return {by_isa<DropoutDesc, run_dropout>(isa), nullptr, nullptr, dropout_cost, true};
}

}  // namespace hone::cpu
