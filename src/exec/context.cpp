#include "exec/context.h"

#include <algorithm>

#include "backend/desc/elementwise.h"
#include "backend/desc/optim.h"

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

void zero(Context& ctx, std::span<const Tensor> tensors, const char* label) {
  std::vector<ByteArray> list;
  for (const Tensor& t : tensors) {
    HONE_CHECK(t.contiguous());
    list.push_back({t.view().data, static_cast<int64_t>(t.bytes())});
  }
  launch(ctx, ZeroDesc{list}, label);
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

namespace {

// The gradients of a block's results; none of them defined: the block has no part in the loss.
std::vector<Tensor> take_all(Tape& tape, const std::vector<int>& slots) {
  std::vector<Tensor> grads;
  for (const int slot : slots) grads.push_back(tape.take(slot));
  return grads;
}

std::vector<Tensor*> results(BlockOut& out) {
  std::vector<Tensor*> all = {&out.x};
  for (Tensor& t : out.aux) all.push_back(&t);
  return all;
}

}  // namespace

BlockOut run_block(Context& ctx, int unit, const Tensor& x, BlockFn fn) {
  ctx.params->prefetch(unit + 1);
  if (ctx.tape == nullptr) return fn(ctx, x);
  const auto fetch_before = [params = ctx.params, unit] { params->prefetch(unit - 1); };
  if (ctx.policy == BlockPolicy::keep) {
    BlockOut out = fn(ctx, x);
    ctx.tape->record([fetch_before](Tape&) { fetch_before(); });
    return out;
  }
  Context forward = with_tape(ctx, nullptr);
  BlockOut out = fn(forward, x.detached());
  std::vector<int> slots;
  for (Tensor* t : results(out)) {
    t->set_slot(ctx.tape->new_slot());
    slots.push_back(t->slot());
  }
  Context* const outer = &ctx;
  ctx.tape->record([outer, x, slots, fn = std::move(fn), fetch_before](Tape& tape) {
    std::vector<Tensor> grads = take_all(tape, slots);
    if (std::none_of(grads.begin(), grads.end(), [](const Tensor& g) { return g.defined(); }))
      return;
    fetch_before();
    Tape inner(&tape);
    Context again = with_tape(*outer, &inner);
    again.output_unneeded = true;
    Tensor input = x.detached();
    if (x.requires_grad()) input.set_slot(inner.new_slot());
    BlockOut output = fn(again, input);
    const std::vector<Tensor*> all = results(output);
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i]->requires_grad() && grads[i].defined())
        inner.assign(all[i]->slot(), std::move(grads[i]));
    }
    grads.clear();
    inner.backward();
    if (x.requires_grad()) {
      Tensor dx = inner.take(input.slot());
      if (dx.defined()) add_grad(*outer, tape, x.slot(), std::move(dx));
    }
  });
  return out;
}

namespace detail {

void kernel_failed(KernelId id, const char* label, const char* error) {
  throw InternalError(__FILE__, __LINE__,
                      fmt::format("kernel {} ({}): {}", kernel_name(id), label, error));
}

}  // namespace detail
}  // namespace hone
