#include "exec/context.h"

#include <cstring>

namespace hone {
namespace {

template <class T>
Tensor upload_values(Context& ctx, DType dtype, std::span<const T> values) {
  Tensor t = ctx.empty(dtype, {static_cast<int64_t>(values.size())});
  if (!ctx.device->meta && !values.empty())
    std::memcpy(t.view().data, values.data(), values.size_bytes());
  return t;
}

}  // namespace

Tensor upload(Context& ctx, std::span<const int32_t> values) {
  return upload_values(ctx, DType::i32, values);
}
Tensor upload(Context& ctx, std::span<const int64_t> values) {
  return upload_values(ctx, DType::i64, values);
}
Tensor upload(Context& ctx, std::span<const float> values) {
  return upload_values(ctx, DType::f32, values);
}

std::vector<double> read(const Context& ctx, const Tensor& t, double assumption) {
  const auto n = static_cast<size_t>(t.numel());
  std::vector<double> out(n, assumption);
  if (ctx.device->meta) return out;
  HONE_CHECK(t.contiguous());
  for (size_t i = 0; i < n; ++i) {
    switch (t.dtype()) {
      case DType::f32:
        out[i] = t.view().as<float>()[i];
        break;
      case DType::f64:
        out[i] = t.view().as<double>()[i];
        break;
      case DType::bf16:
        out[i] = static_cast<float>(t.view().as<bf16>()[i]);
        break;
      case DType::i32:
        out[i] = t.view().as<int32_t>()[i];
        break;
      case DType::i64:
        out[i] = static_cast<double>(t.view().as<int64_t>()[i]);
        break;
      default:
        HONE_CHECK(false, "dtype cannot be read");
    }
  }
  return out;
}

Tensor clone(Context& ctx, const Tensor& t) {
  Tensor copy;
  switch (t.rank()) {
    case 1:
      copy = ctx.empty(t.dtype(), {t.dim(0)});
      break;
    case 2:
      copy = ctx.empty(t.dtype(), {t.dim(0), t.dim(1)});
      break;
    default:
      copy = ctx.empty(t.dtype(), {t.dim(0), t.dim(1), t.dim(2)});
      break;
  }
  launch(ctx, ConvertDesc{.x = t.view(), .y = copy.view()}, "clone");
  return copy;
}

GradTarget grad_target(Context& ctx, Tape& tape, int slot, const Tensor& like) {
  if (!tape.grad(slot).defined()) {
    Tensor g = like.rank() == 2 ? ctx.empty(like.dtype(), {like.dim(0), like.dim(1)})
                                : ctx.empty(like.dtype(), {like.dim(0), like.dim(1), like.dim(2)});
    tape.assign(slot, g);
    return {std::move(g), false};
  }
  if (!tape.grad(slot).unique()) tape.assign(slot, clone(ctx, tape.grad(slot)));
  return {tape.grad(slot), true};
}

void add_grad(Context& ctx, Tape& tape, int slot, Tensor grad) {
  if (!tape.grad(slot).defined()) {
    tape.assign(slot, std::move(grad));
    return;
  }
  const GradTarget target = grad_target(ctx, tape, slot, grad);
  launch(ctx, AddDesc{.a = target.grad.view(), .b = grad.view(), .y = target.grad.view()},
         "add_grad");
}

Tensor run_block(Context& ctx, const Tensor& x, std::function<Tensor(Context&, const Tensor&)> fn) {
  if (ctx.tape == nullptr || ctx.policy == BlockPolicy::keep) return fn(ctx, x);
  Context forward = with_tape(ctx, nullptr);
  Tensor y = fn(forward, x.detached());
  y.set_slot(ctx.tape->new_slot());
  Context* const outer = &ctx;
  ctx.tape->record([outer, x, slot = y.slot(), fn = std::move(fn)](Tape& tape) {
    Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    Tape inner(&tape);
    Context again = with_tape(*outer, &inner);
    again.output_unneeded = true;
    Tensor input = x.detached();
    if (x.requires_grad()) input.set_slot(inner.new_slot());
    const Tensor output = fn(again, input);
    if (!output.requires_grad()) return;
    inner.assign(output.slot(), std::move(dy));
    inner.backward();
    if (x.requires_grad()) {
      Tensor dx = inner.take(input.slot());
      if (dx.defined()) add_grad(*outer, tape, x.slot(), std::move(dx));
    }
  });
  return y;
}

namespace detail {

void kernel_failed(KernelId id, const char* label, const char* error) {
  throw InternalError(__FILE__, __LINE__,
                      fmt::format("kernel {} ({}): {}", kernel_name(id), label, error));
}

}  // namespace detail
}  // namespace hone
