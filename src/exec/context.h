// What a computation runs in: passed to every op, never global.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "exec/device.h"
#include "exec/params.h"
#include "tensor/tape.h"
#include "tensor/tensor.h"

namespace hone {

// Sees every kernel launch: the profiler, the planner's sum of costs. label: what the op is in the
// model ("mlp.down dx").
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void before(KernelId id, const char* label, const Cost& cost) = 0;
  virtual void after() = 0;
};

// What a block's forward leaves for its backward: everything it saved, or its input only.
enum class BlockPolicy : uint8_t { keep, recompute };

struct Context {
  Device* device = nullptr;
  ParamStore* params = nullptr;
  Tape* tape = nullptr;  // null: inference
  Observer* observer = nullptr;
  DType dtype = DType::bf16;  // of activations
  BlockPolicy policy = BlockPolicy::keep;
  bool adapters = true;   // false: the base model
  bool training = false;  // dropout acts
  bool output_unneeded =
      false;  // a block is being recomputed: its last product's value is not needed
  uint64_t seed = 0;
  int64_t step = 0;

  Tensor empty(DType t, std::initializer_list<int64_t> shape,
               MemoryKind kind = MemoryKind::activations) const {
    return Tensor::empty(*device->arena, t, shape, kind);
  }
  // fp32, or f64 in an f64 run: dtype of log-probs, low-rank activations, statistics.
  DType wide() const { return dtype == DType::f64 ? DType::f64 : DType::f32; }
};

// The same context for what records on a tape, or (null) on none.
inline Context with_tape(Context ctx, Tape* tape) {
  ctx.tape = tape;
  return ctx;
}
// The same context for values alone: no tape, no dropout.
inline Context inference(Context ctx) {
  ctx.tape = nullptr;
  ctx.training = false;
  return ctx;
}

// What a block returns: its hidden state, and what else takes part in the tape (a router's loss).
struct BlockOut {
  Tensor x;
  std::vector<Tensor> aux;
};
using BlockFn = std::function<BlockOut(Context&, const Tensor&)>;

// Runs fn(ctx, x) as one block under ctx.policy. recompute: forward keeps x only and backward runs
// fn again (the same bits). x may have a slot or not; the results have one if a gradient is due. fn
// must be pure: same inputs, same results; it is kept until backward. unit: whose parameters fn
// leases; the next one is fetched meanwhile, in backward the one before.
BlockOut run_block(Context& ctx, int unit, const Tensor& x, BlockFn fn);

// The gradient of a slot, ready to be written: allocated (accumulate = false), or the existing one
// made exclusive (accumulate = true).
struct GradTarget {
  Tensor grad;
  bool accumulate = false;
};
GradTarget grad_target(Context& ctx, Tape& tape, int slot, const Tensor& like);
// Adds a finished gradient to a slot: adopted on first write.
void add_grad(Context& ctx, Tape& tape, int slot, Tensor grad);
// A copy of t with storage of its own.
Tensor clone(Context& ctx, const Tensor& t);
// Every byte of contiguous tensors becomes zero: one launch for all.
void zero(Context& ctx, std::span<const Tensor> tensors, const char* label = "");
inline void zero(Context& ctx, const Tensor& t, const char* label = "") {
  zero(ctx, std::span(&t, 1), label);
}

namespace detail {
#define HONE_KERNEL(name, Desc)                                                              \
  inline const Kernel<Desc>& kernel_of(const KernelTable& t, const Desc*) { return t.name; } \
  inline constexpr KernelId kernel_id(const Desc*) { return KernelId::name; }
#include "backend/kernels.def"
#undef HONE_KERNEL
[[noreturn]] void kernel_failed(KernelId id, const char* label, const char* error);
}  // namespace detail

// Runs the kernel that a descriptor is for: counts its scratch in the arena, tells the observer,
// checks the status.
template <class Desc>
void launch(Context& ctx, const Desc& desc, const char* label = "") {
  Device& device = *ctx.device;
  const Kernel<Desc>& kernel = detail::kernel_of(device.table, &desc);
  const KernelId id = detail::kernel_id(&desc);
  if (kernel.run == nullptr) detail::kernel_failed(id, label, "not in this device's table");
  const size_t bytes =
      kernel.scratch_bytes == nullptr ? 0 : kernel.scratch_bytes(device.props, desc);
  Tensor scratch;
  if (bytes != 0)
    scratch = ctx.empty(DType::u8, {static_cast<int64_t>(bytes)}, MemoryKind::workspace);
  if (ctx.observer != nullptr)
    ctx.observer->before(id, label, kernel.cost == nullptr ? Cost{} : kernel.cost(desc));
  if (!device.meta) {
    const KernelCtx kctx{.pool = device.pool,
                         .scratch = bytes == 0 ? nullptr : scratch.view().data,
                         .scratch_bytes = bytes,
                         .props = &device.props};
    const Status status = kernel.run(kctx, desc);
    if (!status.ok()) detail::kernel_failed(id, label, status.error);
  }
  if (ctx.observer != nullptr) ctx.observer->after();
}

}  // namespace hone
