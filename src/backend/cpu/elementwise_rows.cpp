// Rows moved by index on the CPU: embedding, gather, scatter. Legend: T rows, R listed rows, D
// features, V table rows.
#include <cstring>

#include "backend/cpu/rows.h"
#include "backend/desc/elementwise.h"

namespace hone::cpu {
namespace {

int64_t bytes_of(const View& v) { return row_size(v) * static_cast<int64_t>(dtype_size(v.dtype)); }

int64_t index_at(const View& v, int64_t i) { return v.as<int32_t>()[i * v.stride[0]]; }

bool indices_ok(const View& v, int64_t limit) {
  for (int64_t i = 0; i < v.shape[0]; ++i) {
    if (index_at(v, i) < 0 || index_at(v, i) >= limit) return false;
  }
  return true;
}
bool is_index(const View& v) { return v.rank == 1 && v.dtype == DType::i32; }

Status run_embedding(Isa isa, const KernelCtx& ctx, const EmbeddingDesc& d) {
  if (!is_index(d.tokens)) return {"embedding: tokens are [T] i32"};
  if (d.y.rank != 2 || d.y.shape[0] != d.tokens.shape[0] || d.y.shape[1] != d.table.cols) {
    return {"embedding: y is [T, D]"};
  }
  const bool wide = d.table.format == Format::f64 || d.y.dtype == DType::f64;
  if (!is_float(isa, d.y) || (wide && isa != Isa::reference)) return {"embedding: dtype"};
  if (!last_dim_ok(d.y)) return {"embedding: layout"};
  if (!indices_ok(d.tokens, d.table.rows)) return {"embedding: a token is outside the table"};
  const RowOps& ops = row_ops(isa);
  const FormatLayout& layout = format_layout(d.table.format);
  const bool copy = layout.plain && layout.values == d.y.dtype;
  for_rows(ctx, d.y.shape[0], 2 * bytes_of(d.y), [&](int64_t t) {
    const int64_t row = index_at(d.tokens, t);
    if (copy) {
      std::memcpy(row_span(d.y, t).data, weight_row(d.table, row).data,
                  static_cast<size_t>(bytes_of(d.y)));
      return;
    }
    for_weight_row(isa, d.table, row, d.y.dtype, [&](Span from, int64_t col, int64_t n) {
      ops.convert(from, at(d.y, t * d.y.stride[0] + col), n, 1);
    });
  });
  return {};
}

Status run_embedding_backward(Isa isa, const KernelCtx& ctx, const EmbeddingBackwardDesc& d) {
  if (!is_index(d.tokens)) return {"embedding_backward: tokens are [T] i32"};
  if (d.dy.rank != 2 || d.dtable.rank != 2 || d.dy.shape[0] != d.tokens.shape[0] ||
      d.dy.shape[1] != d.dtable.shape[1]) {
    return {"embedding_backward: dy is [T, D], dtable [V, D]"};
  }
  if (!is_float(isa, d.dy) ||
      d.dtable.dtype != (d.dy.dtype == DType::f64 ? DType::f64 : DType::f32)) {
    return {"embedding_backward: dtype"};
  }
  if (!last_dim_ok(d.dy) || !last_dim_ok(d.dtable)) return {"embedding_backward: layout"};
  if (!indices_ok(d.tokens, d.dtable.shape[0])) {
    return {"embedding_backward: a token is outside the table"};
  }
  const RowOps& ops = row_ops(isa);
  // A task owns a slice of the features, so every table row is added to in ascending t by one task.
  const int64_t columns = d.dy.shape[1], slice = 256, slices = (columns + slice - 1) / slice;
  const auto task = [&](int64_t s, int) {
    const int64_t begin = s * slice, n = std::min(slice, columns - begin);
    for (int64_t t = 0; t < d.dy.shape[0]; ++t) {
      const Span to = at(d.dtable, index_at(d.tokens, t) * d.dtable.stride[0] + begin);
      ops.add(to, at(d.dy, t * d.dy.stride[0] + begin), to, n);
    }
  };
  if (ctx.pool != nullptr) {
    ctx.pool->run(slices, task);
  } else {
    for (int64_t s = 0; s < slices; ++s) task(s, 0);
  }
  return {};
}

Status check_rows(const View& rows, const View& all, const View& listed) {
  if (!is_index(rows)) return {"rows are [R] i32"};
  if (all.rank < 2 || all.rank > 3 || listed.rank != all.rank ||
      !std::equal(all.shape + 1, all.shape + all.rank, listed.shape + 1) ||
      listed.shape[0] != rows.shape[0]) {
    return {"gather_rows and scatter_rows: [T, D] and [R, D], or with heads in between"};
  }
  if (!last_dim_ok(all) || !last_dim_ok(listed)) return {"gather_rows and scatter_rows: layout"};
  if (!indices_ok(rows, all.shape[0])) return {"gather_rows and scatter_rows: a row is outside"};
  return {};
}

Status run_gather(Isa, const KernelCtx& ctx, const GatherRowsDesc& d) {
  if (const Status s = check_rows(d.rows, d.x, d.y); !s.ok()) return s;
  if (d.x.dtype != d.y.dtype) return {"gather_rows: dtype"};
  if (d.x.rank != 2) return {"gather_rows: [T, D] and [R, D]"};
  for_rows(ctx, d.y.shape[0], 2 * bytes_of(d.y), [&](int64_t r) {
    std::memcpy(row_span(d.y, r).data, row_span(d.x, index_at(d.rows, r)).data,
                static_cast<size_t>(bytes_of(d.y)));
  });
  return {};
}

Status run_scatter(Isa isa, const KernelCtx& ctx, const ScatterRowsDesc& d) {
  if (const Status s = check_rows(d.rows, d.x, d.y); !s.ok()) return s;
  const bool copy = !d.accumulate && d.x.dtype == d.y.dtype;
  if (!copy && (!is_float(isa, d.x) || !is_float(isa, d.y))) return {"scatter_rows: dtype"};
  const RowOps& ops = row_ops(isa);
  const int64_t heads = d.y.rank == 3 ? d.y.shape[1] : 1, size = row_size(d.y);
  for_rows(ctx, d.y.shape[0], 2 * heads * bytes_of(d.y), [&](int64_t r) {
    for (int64_t h = 0; h < heads; ++h) {
      const Span to = row_span(d.x, index_at(d.rows, r) * heads + h);
      const Span from = row_span(d.y, r * heads + h);
      if (copy) {
        std::memcpy(to.data, from.data, static_cast<size_t>(bytes_of(d.y)));
      } else if (d.accumulate) {
        ops.add(to, from, to, size);
      } else {
        ops.convert(from, to, size, 1);
      }
    }
  });
  return {};
}

Cost embedding_cost(const EmbeddingDesc& d) {
  return {0,
          static_cast<double>(d.y.numel()) * static_cast<double>(format_bits(d.table.format)) / 8 +
              view_bytes(d.y)};
}
Cost embedding_backward_cost(const EmbeddingBackwardDesc& d) {
  const double n = static_cast<double>(d.dy.numel());
  return {n, view_bytes(d.dy) + 2 * n * static_cast<double>(dtype_size(d.dtable.dtype))};
}
Cost gather_cost(const GatherRowsDesc& d) { return {0, 2 * view_bytes(d.y)}; }
Cost scatter_cost(const ScatterRowsDesc& d) {
  const double n = static_cast<double>(d.y.numel());
  return {d.accumulate ? n : 0, view_bytes(d.y) + n * static_cast<double>(dtype_size(d.x.dtype)) *
                                                      (d.accumulate ? 2 : 1)};
}

}  // namespace

Kernel<EmbeddingDesc> embedding(Isa isa) {
  return {by_isa<EmbeddingDesc, run_embedding>(isa), nullptr, nullptr, embedding_cost, true};
}
Kernel<EmbeddingBackwardDesc> embedding_backward(Isa isa) {
  return {by_isa<EmbeddingBackwardDesc, run_embedding_backward>(isa), nullptr, nullptr,
          embedding_backward_cost, false};
}
Kernel<GatherRowsDesc> gather_rows(Isa isa) {
  return {by_isa<GatherRowsDesc, run_gather>(isa), nullptr, nullptr, gather_cost, true};
}
Kernel<ScatterRowsDesc> scatter_rows(Isa isa) {
  return {by_isa<ScatterRowsDesc, run_scatter>(isa), nullptr, nullptr, scatter_cost, true};
}

}  // namespace hone::cpu
