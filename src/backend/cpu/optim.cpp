// Optimizer kernels on the CPU.
#include <cmath>

#include "backend/cpu/rows.h"

namespace hone::cpu {
namespace {

constexpr int64_t kAdamChunk = 16 << 10;
constexpr int64_t kSumChunk = 64 << 10;

bool flat(const View& v, int64_t n, DType t) {
  return v.rank >= 1 && v.numel() == n && v.dtype == t && contiguous(v);
}

Status run_adamw(Isa isa, const KernelCtx& ctx, const AdamWDesc& d) {
  const int64_t n = d.param.numel();
  if (!flat(d.param, n, DType::f32) || !flat(d.grad, n, DType::f32) ||
      !flat(d.exp_avg, n, DType::f32) || !flat(d.exp_avg_sq, n, DType::f32)) {
    return {"adamw: param, grad and moments are contiguous f32 of one size"};
  }
  if (!d.weight.none() && !flat(d.weight, n, DType::f32) && !flat(d.weight, n, DType::bf16)) {
    return {"adamw: weight is contiguous f32 or bf16 of the parameter's size"};
  }
  if (d.step < 1) return {"adamw: steps count from 1"};
  const double t = static_cast<double>(d.step);
  const AdamWStep step = {
      .grad_scale = d.grad_scale,
      .beta1 = d.beta1,
      .beta2 = d.beta2,
      .decay = 1 - d.lr * d.weight_decay,
      .step_size = d.lr / (1 - std::pow(d.beta1, t)),
      .inv_sqrt_bias2 = 1 / std::sqrt(1 - std::pow(d.beta2, t)),
      .eps = d.eps,
  };
  const RowOps& ops = row_ops(isa);
  for_rows(ctx, (n + kAdamChunk - 1) / kAdamChunk, kAdamChunk * 16, [&](int64_t c) {
    const int64_t begin = c * kAdamChunk, size = std::min(kAdamChunk, n - begin);
    ops.adamw(at(d.param, begin), at(d.grad, begin), at(d.exp_avg, begin), at(d.exp_avg_sq, begin),
              d.weight.none() ? Span{nullptr, DType::f32} : at(d.weight, begin), size, &step);
  });
  return {};
}

Status run_sum_squares(Isa isa, const KernelCtx& ctx, const SumSquaresDesc& d) {
  const int64_t n = d.x.numel();
  if (!flat(d.x, n, DType::f32)) return {"sum_squares: x is contiguous f32"};
  if (d.out.numel() != 1 || d.out.dtype != DType::f64) return {"sum_squares: out is one f64"};
  const RowOps& ops = row_ops(isa);
  const int64_t chunks = (n + kSumChunk - 1) / kSumChunk;
  double* partial = static_cast<double*>(ctx.scratch);
  for_rows(ctx, chunks, kSumChunk * 4, [&](int64_t c) {
    const int64_t begin = c * kSumChunk;
    partial[c] = ops.sum_squares(d.x.as<float>() + begin, std::min(kSumChunk, n - begin));
  });
  double sum = 0;
  for (int64_t c = 0; c < chunks; ++c) sum += partial[c];
  *d.out.as<double>() += sum;
  return {};
}

size_t sum_scratch(const DeviceProps&, const SumSquaresDesc& d) {
  return static_cast<size_t>((d.x.numel() + kSumChunk - 1) / kSumChunk) * sizeof(double);
}
Cost adamw_cost(const AdamWDesc& d) {
  return {14.0 * static_cast<double>(d.param.numel()),
          2 * view_bytes(d.param) + view_bytes(d.grad) + 2 * view_bytes(d.exp_avg) +
              2 * view_bytes(d.exp_avg_sq) + view_bytes(d.weight)};
}
Cost sum_cost(const SumSquaresDesc& d) {
  return {2.0 * static_cast<double>(d.x.numel()), view_bytes(d.x)};
}

}  // namespace

Kernel<AdamWDesc> adamw(Isa isa) {
  return {by_isa<AdamWDesc, run_adamw>(isa), nullptr, nullptr, adamw_cost, true};
}
Kernel<SumSquaresDesc> sum_squares(Isa isa) {
  return {by_isa<SumSquaresDesc, run_sum_squares>(isa), sum_scratch, nullptr, sum_cost, false};
}

}  // namespace hone::cpu
