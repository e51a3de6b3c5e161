#include "ops/block.h"

#include "backend/desc/elementwise.h"
#include "backend/desc/norm.h"
#include "ops/attention.h"

namespace hone::ops {
namespace {

bool trains(const Context& ctx, ParamId id) { return ctx.params->spec(id).trainable; }

}  // namespace

Tensor embedding(Context& ctx, ParamId table, const Tensor& tokens) {
  const Lease lease = ctx.params->lease(table);
  const WeightView& w = lease.weight();
  Tensor y = ctx.empty(ctx.dtype, {tokens.dim(0), w.cols});
  launch(ctx, EmbeddingDesc{.tokens = tokens.view(), .table = w, .y = y.view()}, "embed");
  if (ctx.tape == nullptr || !trains(ctx, table)) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, table, tokens, slot = y.slot()](Tape& tape) {
    const Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    tape.defer([ctx = with_tape(*c, nullptr), table, tokens, dy]() mutable {
      launch(
          ctx,
          EmbeddingBackwardDesc{
              .tokens = tokens.view(), .dy = dy.view(), .dtable = ctx.params->grad(table).view()},
          "embed dW");
    });
  });
  return y;
}

Tensor rms_norm(Context& ctx, ParamId weight, double eps, const Tensor& x, const char* label) {
  return rms_norm(ctx, weight, eps, Heads{x, dense_heads(0, 1, x.dim(1))}, label);
}

Tensor swiglu(Context& ctx, const Tensor& gate_up) {
  const int64_t rows = gate_up.dim(0), f = gate_up.dim(1) / 2;
  Tensor y = ctx.empty(gate_up.dtype(), {rows, f});
  launch(
      ctx,
      SwigluDesc{
          .gate = gate_up.columns(0, f).view(), .up = gate_up.columns(f, f).view(), .y = y.view()},
      "swiglu");
  if (ctx.tape == nullptr || !gate_up.requires_grad()) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, gate_up, f, slot = y.slot()](Tape& tape) {
    const Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    Tensor dx = c->empty(gate_up.dtype(), {gate_up.dim(0), gate_up.dim(1)});
    launch(*c,
           SwigluBackwardDesc{.gate = gate_up.columns(0, f).view(),
                              .up = gate_up.columns(f, f).view(),
                              .dy = dy.view(),
                              .dgate = dx.columns(0, f).view(),
                              .dup = dx.columns(f, f).view()},
           "swiglu dx");
    add_grad(*c, tape, gate_up.slot(), std::move(dx));
  });
  return y;
}

}  // namespace hone::ops
