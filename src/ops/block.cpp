#include "ops/block.h"

#include <cmath>

namespace hone::ops {
namespace {

bool trains(const Context& ctx, ParamId id) { return ctx.params->spec(id).trainable; }

// A gradient that may be changed in place.
Tensor exclusive(Context& ctx, Tensor t) { return t.unique() ? t : clone(ctx, t); }

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
  Tensor y = ctx.empty(x.dtype(), {x.dim(0), x.dim(1)});
  const bool grad = ctx.tape != nullptr && (x.requires_grad() || trains(ctx, weight));
  Tensor rstd;
  if (grad) rstd = ctx.empty(ctx.wide(), {x.dim(0)});
  const Lease w = ctx.params->lease(weight);
  launch(ctx,
         RmsNormDesc{
             .x = x.view(), .weight = w.view(), .y = y.view(), .saved = rstd.view(), .eps = eps},
         label);
  if (!grad) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, weight, x, rstd, slot = y.slot(), label](Tape& tape) {
    const Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    const Lease w = c->params->lease(weight);
    RmsNormBackwardDesc d{.x = x.view(), .weight = w.view(), .saved = rstd.view(), .dy = dy.view()};
    GradTarget dx;
    if (x.requires_grad()) {
      dx = grad_target(*c, tape, x.slot(), x);
      d.dx = dx.grad.view();
      d.accumulate = dx.accumulate;
    }
    if (trains(*c, weight)) d.dweight = c->params->grad(weight).view();
    launch(*c, d, label);
  });
  return y;
}

Tensor qk_norm(Context& ctx, const HeadLayout& layout, ParamId q_weight, ParamId k_weight,
               double eps, const Tensor& qkv) {
  const int64_t rows = qkv.dim(0), qw = layout.q_width(), kw = layout.k_width();
  Tensor y = ctx.empty(qkv.dtype(), {rows, layout.width()});
  const bool grad = ctx.tape != nullptr &&
                    (qkv.requires_grad() || trains(ctx, q_weight) || trains(ctx, k_weight));
  struct Side {
    ParamId weight;
    int64_t begin, width, heads;
    Tensor rstd;
  };
  Side sides[2] = {{q_weight, 0, qw, layout.heads, {}}, {k_weight, qw, kw, layout.key_heads, {}}};
  for (Side& s : sides) {
    if (grad) s.rstd = ctx.empty(ctx.wide(), {rows * s.heads});
    const Lease w = ctx.params->lease(s.weight);
    launch(ctx,
           RmsNormDesc{.x = qkv.columns(s.begin, s.width).heads(layout.head_dim).view(),
                       .weight = w.view(),
                       .y = y.columns(s.begin, s.width).heads(layout.head_dim).view(),
                       .saved = s.rstd.view(),
                       .eps = eps},
           "qk_norm");
  }
  launch(ctx, ConvertDesc{.x = qkv.columns(qw + kw, kw).view(), .y = y.columns(qw + kw, kw).view()},
         "qk_norm v");
  if (!grad) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record(
      [c = &ctx, layout, q = sides[0], k = sides[1], qkv, slot = y.slot()](Tape& tape) {
        Tensor dy = tape.take(slot);
        if (!dy.defined()) return;
        dy = exclusive(*c, std::move(dy));
        for (const Side* s : {&q, &k}) {
          const Tensor part = dy.columns(s->begin, s->width).heads(layout.head_dim);
          const Lease w = c->params->lease(s->weight);
          RmsNormBackwardDesc d{.x = qkv.columns(s->begin, s->width).heads(layout.head_dim).view(),
                                .weight = w.view(),
                                .saved = s->rstd.view(),
                                .dy = part.view(),
                                .dx = part.view()};
          if (trains(*c, s->weight)) d.dweight = c->params->grad(s->weight).view();
          launch(*c, d, "qk_norm");
        }
        if (qkv.requires_grad()) add_grad(*c, tape, qkv.slot(), std::move(dy));
      });
  return y;
}

Tensor rope(Context& ctx, const HeadLayout& layout, const Tensor& table, const Tensor& qkv) {
  const int64_t width = layout.q_width() + layout.k_width();
  const auto rotate = [layout, width](Context& ctx, const Tensor& table, const Tensor& t,
                                      bool inverse) {
    const Tensor heads = t.columns(0, width).heads(layout.head_dim);
    launch(
        ctx,
        RopeDesc{.x = heads.view(), .table = table.view(), .y = heads.view(), .inverse = inverse},
        "rope");
  };
  rotate(ctx, table, qkv, false);
  Tensor y = qkv.detached();
  if (ctx.tape == nullptr || !qkv.requires_grad()) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, rotate, table, in = qkv.slot(), out = y.slot()](Tape& tape) {
    Tensor dy = tape.take(out);
    if (!dy.defined()) return;
    dy = exclusive(*c, std::move(dy));
    rotate(*c, table, dy, true);
    add_grad(*c, tape, in, std::move(dy));
  });
  return y;
}

Tensor attention(Context& ctx, const HeadLayout& layout, const AttentionPlan& plan,
                 const Tensor& qkv, const Tensor& k_cache, const Tensor& v_cache) {
  const int64_t rows = qkv.dim(0), qw = layout.q_width(), kw = layout.k_width();
  const bool grad = ctx.tape != nullptr && qkv.requires_grad();
  HONE_CHECK(!(grad && k_cache.defined()), "a cache has no gradient");
  Tensor out = ctx.empty(qkv.dtype(), {rows, qw});
  const auto heads = [&layout](const Tensor& t, int64_t begin, int64_t width) {
    return t.columns(begin, width).heads(layout.head_dim);
  };
  AttentionDesc d{
      .q = heads(qkv, 0, qw).view(),
      .k = k_cache.defined() ? k_cache.view() : heads(qkv, qw, kw).view(),
      .v = v_cache.defined() ? v_cache.view() : heads(qkv, qw + kw, kw).view(),
      .out = out.heads(layout.head_dim).view(),
      .segments = plan.segments.data(),
      .num_segments = static_cast<int>(plan.segments.size()),
      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(layout.head_dim)))};
  Tensor saved;
  if (grad) {
    const auto spec_of = ctx.device->table.attention.saved;
    const SavedSpec spec = spec_of == nullptr ? SavedSpec{} : spec_of(ctx.device->props, d);
    HONE_CHECK(spec.count <= 1);
    if (spec.count == 1) {
      const auto& s = spec.tensor[0];
      saved = s.rank == 1   ? ctx.empty(s.dtype, {s.shape[0]})
              : s.rank == 2 ? ctx.empty(s.dtype, {s.shape[0], s.shape[1]})
                            : ctx.empty(s.dtype, {s.shape[0], s.shape[1], s.shape[2]});
      d.saved = saved.view();
    }
  }
  launch(ctx, d, "attention");
  if (!grad) return out;
  out.set_slot(ctx.tape->new_slot());
  // The plan belongs to the micro-batch and outlives the tape.
  ctx.tape->record([c = &ctx, layout, plan = &plan, qkv, out = out.detached(), saved,
                    scale = d.scale, in = qkv.slot(), slot = out.slot(), heads](Tape& tape) {
    const Tensor dout = tape.take(slot);
    if (!dout.defined()) return;
    const int64_t qw = layout.q_width(), kw = layout.k_width();
    Tensor dqkv = c->empty(qkv.dtype(), {qkv.dim(0), qkv.dim(1)});
    launch(*c,
           AttentionBackwardDesc{.q = heads(qkv, 0, qw).view(),
                                 .k = heads(qkv, qw, kw).view(),
                                 .v = heads(qkv, qw + kw, kw).view(),
                                 .out = out.heads(layout.head_dim).view(),
                                 .saved = saved.view(),
                                 .dout = dout.heads(layout.head_dim).view(),
                                 .dq = heads(dqkv, 0, qw).view(),
                                 .dk = heads(dqkv, qw, kw).view(),
                                 .dv = heads(dqkv, qw + kw, kw).view(),
                                 .segments = plan->segments.data(),
                                 .num_segments = static_cast<int>(plan->segments.size()),
                                 .scale = scale},
           "attention dx");
    add_grad(*c, tape, in, std::move(dqkv));
  });
  return out;
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
