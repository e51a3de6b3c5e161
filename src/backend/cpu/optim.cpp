// Kernels over lists of flat arrays on the CPU.
#include <cmath>
#include <cstring>

#include "backend/cpu/chunks.h"
#include "backend/cpu/rows.h"
#include "backend/desc/optim.h"

namespace hone::cpu {
namespace {

constexpr int64_t kAdamChunk = 16 << 10;
constexpr int64_t kSumChunk = 64 << 10;
constexpr int64_t kZeroChunk = 64 << 10;

Status check_adamw(const AdamWDesc& d) {
  for (const AdamWArrays& a : d.list) {
    if (a.weight != nullptr && a.weight_dtype != DType::f32 && a.weight_dtype != DType::bf16)
      return {"adamw: weight is f32 or bf16"};
  }
  return {d.step < 1 ? "adamw: steps count from 1" : nullptr};
}

Status run_adamw(Isa isa, const KernelCtx& ctx, const AdamWDesc& d) {
  if (const Status status = check_adamw(d); !status.ok()) return status;
  const double t = static_cast<double>(d.step);
  const AdamWStep common = {
      .grad_scale = d.grad_scale,
      .beta1 = d.beta1,
      .beta2 = d.beta2,
      .decay = 1,
      .step_size = d.lr / (1 - std::pow(d.beta1, t)),
      .inv_sqrt_bias2 = 1 / std::sqrt(1 - std::pow(d.beta2, t)),
      .eps = d.eps,
  };
  const RowOps& ops = row_ops(isa);
  const Chunks chunks(d.list, kAdamChunk, ctx.scratch);
  for_rows(ctx, chunks.count(), chunks.elements() * 16, [&](int64_t c) {
    const auto [i, begin, size] = chunks[c];
    const AdamWArrays& a = d.list[i];
    AdamWStep step = common;
    step.decay = 1 - d.lr * a.weight_decay;
    Span weight{nullptr, DType::f32};
    if (a.weight != nullptr) {
      weight = {
          static_cast<char*>(a.weight) + begin * static_cast<int64_t>(dtype_size(a.weight_dtype)),
          a.weight_dtype};
    }
    ops.adamw({a.param + begin, DType::f32}, {const_cast<float*>(a.grad) + begin, DType::f32},
              {a.exp_avg + begin, DType::f32}, {a.exp_avg_sq + begin, DType::f32}, weight, size,
              &step);
  });
  return {};
}

// Scratch: the chunks, then a sum of each.
Status run_sum_squares(Isa isa, const KernelCtx& ctx, const SumSquaresDesc& d) {
  if (d.out.numel() != 1 || d.out.dtype != DType::f64) return {"sum_squares: out is one f64"};
  const RowOps& ops = row_ops(isa);
  const Chunks chunks(d.list, kSumChunk, ctx.scratch);
  auto* partial = reinterpret_cast<double*>(static_cast<char*>(ctx.scratch) +
                                            Chunks<FloatArray>::scratch_bytes(d.list));
  for_rows(ctx, chunks.count(), chunks.elements() * 4, [&](int64_t c) {
    const auto [i, begin, size] = chunks[c];
    partial[c] = ops.sum_squares(d.list[i].data + begin, size);
  });
  for (size_t i = 0; i < d.list.size(); ++i) {
    double sum = 0;
    for (int64_t c = chunks.first(i); c < chunks.first(i + 1); ++c) sum += partial[c];
    *d.out.as<double>() += sum;
  }
  return {};
}

Status run_zero(Isa, const KernelCtx& ctx, const ZeroDesc& d) {
  const Chunks chunks(d.list, kZeroChunk, ctx.scratch);
  for_rows(ctx, chunks.count(), chunks.elements(), [&](int64_t c) {
    const auto [i, begin, size] = chunks[c];
    std::memset(static_cast<char*>(d.list[i].data) + begin, 0, static_cast<size_t>(size));
  });
  return {};
}

size_t adamw_scratch(const DeviceProps&, const AdamWDesc& d) {
  return Chunks<AdamWArrays>::scratch_bytes(d.list);
}
size_t sum_scratch(const DeviceProps&, const SumSquaresDesc& d) {
  int64_t chunks = 0;
  for (const FloatArray& a : d.list) chunks += chunks_of(a.n, kSumChunk);
  return Chunks<FloatArray>::scratch_bytes(d.list) + static_cast<size_t>(chunks) * sizeof(double);
}
size_t zero_scratch(const DeviceProps&, const ZeroDesc& d) {
  return Chunks<ByteArray>::scratch_bytes(d.list);
}

template <class Array>
double total(std::span<const Array> list) {
  double n = 0;
  for (const Array& a : list) n += static_cast<double>(a.n);
  return n;
}
Cost adamw_cost(const AdamWDesc& d) {
  double weights = 0;
  for (const AdamWArrays& a : d.list) {
    if (a.weight != nullptr)
      weights += static_cast<double>(a.n) * static_cast<double>(dtype_size(a.weight_dtype));
  }
  const double n = total(d.list);
  return {14 * n, 7 * 4 * n + weights};  // gradients are read, the other three read and written
}
Cost sum_cost(const SumSquaresDesc& d) { return {2 * total(d.list), 4 * total(d.list)}; }
Cost zero_cost(const ZeroDesc& d) { return {0, total(d.list)}; }

}  // namespace

Kernel<AdamWDesc> adamw(Isa isa) {
  return {by_isa<AdamWDesc, run_adamw>(isa), adamw_scratch, nullptr, adamw_cost, true};
}
Kernel<SumSquaresDesc> sum_squares(Isa isa) {
  return {by_isa<SumSquaresDesc, run_sum_squares>(isa), sum_scratch, nullptr, sum_cost, false};
}
Kernel<ZeroDesc> zero(Isa isa) {
  return {by_isa<ZeroDesc, run_zero>(isa), zero_scratch, nullptr, zero_cost, true};
}

}  // namespace hone::cpu
