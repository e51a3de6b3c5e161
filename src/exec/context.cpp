#include "exec/context.h"

namespace hone {

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

Tensor run_block(Context& ctx, int unit, const Tensor& x,
                 std::function<Tensor(Context&, const Tensor&)> fn) {
  ctx.params->prefetch(unit + 1);
  if (ctx.tape == nullptr) return fn(ctx, x);
  const auto fetch_before = [params = ctx.params, unit] { params->prefetch(unit - 1); };
  if (ctx.policy == BlockPolicy::keep) {
    Tensor y = fn(ctx, x);
    ctx.tape->record([fetch_before](Tape&) { fetch_before(); });
    return y;
  }
  Context forward = with_tape(ctx, nullptr);
  Tensor y = fn(forward, x.detached());
  y.set_slot(ctx.tape->new_slot());
  Context* const outer = &ctx;
  ctx.tape->record([outer, x, slot = y.slot(), fn = std::move(fn), fetch_before](Tape& tape) {
    Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    fetch_before();
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
