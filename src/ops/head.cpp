#include "ops/head.h"

#include "backend/desc/elementwise.h"
#include "backend/desc/head.h"

namespace hone::ops {

Tensor gather_rows(Context& ctx, const Tensor& x, const Tensor& rows) {
  Tensor y = ctx.empty(x.dtype(), {rows.dim(0), x.dim(1)});
  launch(ctx, GatherRowsDesc{.x = x.view(), .rows = rows.view(), .y = y.view()}, "gather");
  if (ctx.tape == nullptr || !x.requires_grad()) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, rows, slot = y.slot(), in = x.slot(), t = x.dim(0), d = x.dim(1),
                    dtype = x.dtype()](Tape& tape) {
    const Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    const bool first = !tape.grad(in).defined();
    if (first) {
      tape.assign(in, c->empty(dtype, {t, d}));
      zero(*c, tape.grad(in), "gather dx");
    }
    const GradTarget dx = grad_target(*c, tape, in, tape.grad(in));
    launch(*c,
           ScatterRowsDesc{
               .y = dy.view(), .rows = rows.view(), .x = dx.grad.view(), .accumulate = !first},
           "gather dx");
  });
  return y;
}

TokenLogprobs token_logprobs(Context& ctx, ParamId weight, const Tensor& x, const Tensor& targets,
                             const HeadOptions& o) {
  const int64_t rows = x.dim(0);
  const bool train_weight = ctx.params->spec(weight).trainable;
  const bool grad = ctx.tape != nullptr && (x.requires_grad() || train_weight);
  const bool known = o.dlogprob.defined() && grad;
  const Lease lease = ctx.params->lease(weight);
  TokenLogprobs out;
  out.logprob = ctx.empty(ctx.wide(), {rows});
  if (o.entropy) out.entropy = ctx.empty(ctx.wide(), {rows});
  const Tensor lse = ctx.empty(ctx.wide(), {rows});
  HeadDesc d{.x = x.view(),
             .weight = lease.weight(),
             .targets = targets.view(),
             .inv_temperature = o.inv_temperature.view(),
             .logprob = out.logprob.view(),
             .entropy = out.entropy.view(),
             .saved = lse.view(),
             .logits = o.logits.view()};
  const auto backward = [x, targets, inv_temperature = o.inv_temperature, lse, weight,
                         train_weight](Context& ctx, Tape& tape, const Tensor& dlogprob,
                                       const Tensor& entropy, const Tensor& dentropy) {
    const Lease lease = ctx.params->lease(weight);
    HeadBackwardDesc b{.x = x.view(),
                       .weight = lease.weight(),
                       .targets = targets.view(),
                       .inv_temperature = inv_temperature.view(),
                       .saved = lse.view(),
                       .entropy = entropy.view(),
                       .dlogprob = dlogprob.view(),
                       .dentropy = dentropy.view()};
    Tensor dx;
    if (x.requires_grad()) {
      dx = ctx.empty(x.dtype(), {x.dim(0), x.dim(1)});
      b.dx = dx.view();
    }
    if (train_weight) b.dweight = ctx.params->grad(weight).view();
    launch(ctx, b, "head dx");
    if (dx.defined()) add_grad(ctx, tape, x.slot(), std::move(dx));
  };
  if (known && !train_weight) {
    const Tensor dx = ctx.empty(x.dtype(), {rows, x.dim(1)});
    d.dlogprob = o.dlogprob.view();
    d.dx = dx.view();
    launch(ctx, d, "head");
    add_grad(ctx, *ctx.tape, x.slot(), dx);
    return out;
  }
  launch(ctx, d, "head");
  if (known) {
    backward(ctx, *ctx.tape, o.dlogprob, out.entropy, Tensor());
    return out;
  }
  if (!grad) return out;
  out.logprob.set_slot(ctx.tape->new_slot());
  if (o.entropy) out.entropy.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, backward, out](Tape& tape) {
    Tensor dlogprob = tape.take(out.logprob.slot());
    const Tensor dentropy = out.entropy.defined() ? tape.take(out.entropy.slot()) : Tensor();
    if (!dlogprob.defined() && !dentropy.defined()) return;
    if (!dlogprob.defined()) {
      dlogprob = c->empty(out.logprob.dtype(), {out.logprob.dim(0)});
      zero(*c, dlogprob, "head dx");
    }
    backward(*c, tape, dlogprob, out.entropy, dentropy);
  });
  return out;
}

Logits head_logits(Context& ctx, ParamId weight, const Tensor& x) {
  const Lease lease = ctx.params->lease(weight);
  const WeightView& w = lease.weight();
  Logits out{ctx.empty(ctx.wide(), {x.dim(0), w.rows}), ctx.empty(DType::f64, {x.dim(0)})};
  launch(ctx,
         HeadDesc{.x = x.view(), .weight = w, .saved = out.lse.view(), .logits = out.logits.view()},
         "head");
  return out;
}

}  // namespace hone::ops
