// RMSNorm on the CPU. Legend: T rows (heads counted as rows), D features, C chunks of rows.
#include "backend/desc/norm.h"
#include "backend/cpu/rows.h"

namespace hone::cpu {
namespace {

bool wide(const View& x) { return x.dtype == DType::f64; }
DType sum_dtype(const View& x) { return wide(x) ? DType::f64 : DType::f32; }

// dweight is summed in at most 64 chunks of at least 64 rows; the cut depends on the number of rows
// alone.
int64_t chunk_rows(int64_t rows) { return std::max<int64_t>(64, (rows + 63) / 64); }

Status run_forward(Isa isa, const KernelCtx& ctx, const RmsNormDesc& d) {
  const int64_t rows = row_count(d.x), n = row_size(d.x);
  if (d.x.rank < 1 || !same_shape(d.x, d.y)) return {"rms_norm: x and y differ in shape"};
  if (!is_float(isa, d.x) || !is_float(isa, d.y) || !is_float(isa, d.weight)) {
    return {"rms_norm: dtype"};
  }
  if (d.weight.numel() != n || !last_dim_ok(d.x) || !last_dim_ok(d.y)) return {"rms_norm: layout"};
  if (!d.saved.none() && (d.saved.numel() != rows || d.saved.dtype != sum_dtype(d.x))) {
    return {"rms_norm: saved is one number a row"};
  }
  const RowOps& ops = row_ops(isa);
  for_rows(ctx, rows, 2 * n * static_cast<int64_t>(dtype_size(d.x.dtype)), [&](int64_t r) {
    const double rstd = ops.rms_norm(row_span(d.x, r), at(d.weight, 0), row_span(d.y, r), n, d.eps);
    if (d.saved.none()) return;
    const int64_t at_r = offset(d.saved, r, d.saved.rank);
    if (wide(d.x)) {
      d.saved.as<double>()[at_r] = rstd;
    } else {
      d.saved.as<float>()[at_r] = static_cast<float>(rstd);
    }
  });
  return {};
}

Status run_backward(Isa isa, const KernelCtx& ctx, const RmsNormBackwardDesc& d) {
  const int64_t rows = row_count(d.x), n = row_size(d.x);
  if (d.x.rank < 1 || !same_shape(d.x, d.dy))
    return {"rms_norm_backward: x and dy differ in shape"};
  if (!d.dx.none() && !same_shape(d.x, d.dx))
    return {"rms_norm_backward: x and dx differ in shape"};
  if (!is_float(isa, d.x) || !is_float(isa, d.dy) || !is_float(isa, d.weight) ||
      (!d.dx.none() && !is_float(isa, d.dx)) ||
      (!d.dweight.none() && d.dweight.dtype != sum_dtype(d.x))) {
    return {"rms_norm_backward: dtype"};
  }
  if (d.weight.numel() != n || (!d.dweight.none() && d.dweight.numel() != n) || !last_dim_ok(d.x) ||
      !last_dim_ok(d.dy) || !last_dim_ok(d.dx)) {
    return {"rms_norm_backward: layout"};
  }
  if (d.saved.numel() != rows || d.saved.dtype != sum_dtype(d.x)) {
    return {"rms_norm_backward: saved is one number a row"};
  }
  const RowOps& ops = row_ops(isa);
  const auto row = [&](int64_t r, Span dw) {
    const int64_t at_r = offset(d.saved, r, d.saved.rank);
    const double rstd = wide(d.x) ? d.saved.as<double>()[at_r] : d.saved.as<float>()[at_r];
    const Span dx = d.dx.none() ? Span{nullptr, DType::f32} : row_span(d.dx, r);
    ops.rms_norm_backward(row_span(d.x, r), at(d.weight, 0), row_span(d.dy, r), dx, dw, n, rstd,
                          d.accumulate);
  };
  if (d.dweight.none()) {
    for_rows(ctx, rows, 3 * n * static_cast<int64_t>(dtype_size(d.x.dtype)), [&](int64_t r) {
      row(r, Span{nullptr, DType::f32});
    });
    return {};
  }
  const int64_t chunk = chunk_rows(rows), chunks = (rows + chunk - 1) / chunk;
  const int64_t row_bytes = n * static_cast<int64_t>(dtype_size(d.dweight.dtype));
  char* partial = static_cast<char*>(ctx.scratch);
  const auto task = [&](int64_t c, int) {
    char* dw = partial + c * row_bytes;
    std::fill(dw, dw + row_bytes, 0);
    for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
      row(r, {dw, d.dweight.dtype});
    }
  };
  if (ctx.pool != nullptr) {
    ctx.pool->run(chunks, task);
  } else {
    for (int64_t c = 0; c < chunks; ++c) task(c, 0);
  }
  const Span out = at(d.dweight, 0);
  for (int64_t c = 0; c < chunks; ++c) {
    ops.add(out, {partial + c * row_bytes, d.dweight.dtype}, out, n);
  }
  return {};
}

size_t backward_scratch(const DeviceProps&, const RmsNormBackwardDesc& d) {
  if (d.dweight.none()) return 0;
  const int64_t rows = row_count(d.x), chunk = chunk_rows(rows);
  return static_cast<size_t>((rows + chunk - 1) / chunk * row_size(d.x)) *
         dtype_size(d.dweight.dtype);
}

SavedSpec forward_saved(const DeviceProps&, const RmsNormDesc& d) {
  SavedSpec s;
  s.count = 1;
  s.tensor[0].dtype = sum_dtype(d.x);
  s.tensor[0].rank = std::max(1, d.x.rank - 1);
  s.tensor[0].shape[0] = 1;
  for (int i = 0; i + 1 < d.x.rank; ++i) s.tensor[0].shape[i] = d.x.shape[i];
  return s;
}

Cost forward_cost(const RmsNormDesc& d) {
  return {4.0 * static_cast<double>(d.x.numel()),
          view_bytes(d.x) + view_bytes(d.y) + view_bytes(d.saved) + view_bytes(d.weight)};
}
Cost backward_cost(const RmsNormBackwardDesc& d) {
  return {9.0 * static_cast<double>(d.x.numel()),
          view_bytes(d.x) + view_bytes(d.dy) + view_bytes(d.dx) * (d.accumulate ? 2 : 1) +
              view_bytes(d.saved) + view_bytes(d.weight) + 2 * view_bytes(d.dweight)};
}

}  // namespace

Kernel<RmsNormDesc> rms_norm(Isa isa) {
  return {by_isa<RmsNormDesc, run_forward>(isa), nullptr, forward_saved, forward_cost, true};
}
Kernel<RmsNormBackwardDesc> rms_norm_backward(Isa isa) {
  return {by_isa<RmsNormBackwardDesc, run_backward>(isa), backward_scratch, nullptr, backward_cost,
          true};
}

}  // namespace hone::cpu
