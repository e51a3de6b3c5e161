#include "ops/attention.h"

#include <algorithm>

#include "backend/desc/attention.h"
#include "backend/desc/elementwise.h"
#include "backend/desc/norm.h"

namespace hone::ops {
namespace {

bool trains(const Context& ctx, ParamId id) { return ctx.params->spec(id).trainable; }

// What may be changed in place.
Tensor exclusive(Context& ctx, Tensor t) { return t.unique() ? t : clone(ctx, t); }

// The gradient of a tensor of which these columns will be written: where nobody has written yet,
// the others are zero.
GradTarget columns_target(Context& ctx, Tape& tape, const Heads& h) {
  const GradTarget target = grad_target(ctx, tape, h.rows.slot(), h.rows);
  if (!target.accumulate && h.range.heads * h.range.dim < h.rows.dim(1))
    zero(ctx, target.grad, "other columns");
  return target;
}

// Calls fn(begin, n) for the columns between dense ranges.
template <class F>
void between(std::span<const HeadNorm> norms, int64_t width, F&& fn) {
  std::vector<HeadRange> ranges;
  for (const HeadNorm& n : norms) {
    HONE_CHECK(n.heads.stride == n.heads.dim);
    ranges.push_back(n.heads);
  }
  ranges.push_back({.begin = width});
  std::sort(ranges.begin(), ranges.end(),
            [](const HeadRange& a, const HeadRange& b) { return a.begin < b.begin; });
  int64_t at = 0;
  for (const HeadRange& r : ranges) {
    if (r.begin > at) fn(at, r.begin - at);
    at = r.begin + r.heads * r.dim;
  }
}

Tensor saved_by(Context& ctx, const AttentionDesc& d) {
  const auto spec_of = ctx.device->table.attention.saved;
  const SavedSpec spec = spec_of == nullptr ? SavedSpec{} : spec_of(ctx.device->props, d);
  HONE_CHECK(spec.count <= 1);
  if (spec.count == 0) return {};
  const auto& s = spec.tensor[0];
  return s.rank == 1   ? ctx.empty(s.dtype, {s.shape[0]})
         : s.rank == 2 ? ctx.empty(s.dtype, {s.shape[0], s.shape[1]})
                       : ctx.empty(s.dtype, {s.shape[0], s.shape[1], s.shape[2]});
}

AttentionDesc describe(const AttentionPlan& plan, const View& q, const View& k, const View& v,
                       const Tensor& out, double scale) {
  return {.q = q,
          .k = k,
          .v = v,
          .out = out.heads(v.shape[2]).view(),
          .blocks = plan.blocks.data(),
          .segments = plan.segments.data(),
          .num_segments = static_cast<int>(plan.segments.size()),
          .scale = static_cast<float>(scale)};
}

// Gradients of q, k and v: those that lie in one tensor share its gradient.
class HeadGradients {
 public:
  View add(Context& ctx, const Heads& h) {
    for (Part& p : parts_) {
      if (p.slot >= 0 && p.slot == h.rows.slot()) {
        p.columns += h.range.heads * h.range.dim;
        return h.range.of(p.grad);
      }
    }
    Part& p = parts_.emplace_back();
    p.slot = h.rows.slot();
    p.columns = h.range.heads * h.range.dim;
    p.grad = ctx.empty(h.rows.dtype(), {h.rows.dim(0), h.rows.dim(1)});
    return h.range.of(p.grad);
  }
  // Columns that no head has get zeros; before the heads are written.
  void clear_rest(Context& ctx) const {
    for (const Part& p : parts_) {
      if (p.columns < p.grad.dim(1)) zero(ctx, p.grad, "attention dx");
    }
  }
  void hand_over(Context& ctx, Tape& tape) {
    for (Part& p : parts_) {
      if (p.slot >= 0) add_grad(ctx, tape, p.slot, std::move(p.grad));
    }
  }

 private:
  struct Part {
    int slot = -1;
    int64_t columns = 0;
    Tensor grad;
  };
  std::vector<Part> parts_;
};

}  // namespace

View HeadRange::of(const Tensor& rows) const {
  HONE_CHECK(rows.rank() == 2 && begin + (heads - 1) * stride + dim <= rows.dim(1));
  View v = rows.columns(begin, heads == 0 ? 0 : (heads - 1) * stride + dim).view();
  v.rank = 3;
  v.shape[1] = heads;
  v.shape[2] = dim;
  v.stride[1] = stride;
  v.stride[2] = 1;
  return v;
}

Tensor rms_norm(Context& ctx, ParamId weight, double eps, const Heads& heads, const char* label) {
  const Tensor& x = heads.rows;
  const HeadRange& range = heads.range;
  const HeadRange out = dense_heads(0, range.heads, range.dim);
  Tensor y = ctx.empty(x.dtype(), {x.dim(0), range.heads * range.dim});
  const bool grad = ctx.tape != nullptr && (x.requires_grad() || trains(ctx, weight));
  Tensor rstd;
  if (grad) rstd = ctx.empty(ctx.wide(), {x.dim(0) * range.heads});
  const Lease w = ctx.params->lease(weight);
  launch(
      ctx,
      RmsNormDesc{
          .x = range.of(x), .weight = w.view(), .y = out.of(y), .saved = rstd.view(), .eps = eps},
      label);
  if (!grad) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, weight, x, range, out, rstd, slot = y.slot(), label](Tape& tape) {
    const Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    const Lease w = c->params->lease(weight);
    RmsNormBackwardDesc d{
        .x = range.of(x), .weight = w.view(), .saved = rstd.view(), .dy = out.of(dy)};
    GradTarget dx;
    if (x.requires_grad()) {
      dx = columns_target(*c, tape, {x, range});
      d.dx = range.of(dx.grad);
      d.accumulate = dx.accumulate;
    }
    if (trains(*c, weight)) d.dweight = c->params->grad(weight).view();
    launch(*c, d, label);
  });
  return y;
}

Tensor head_norm(Context& ctx, std::span<const HeadNorm> norms, double eps, const Tensor& x) {
  const int64_t rows = x.dim(0);
  Tensor y = ctx.empty(x.dtype(), {rows, x.dim(1)});
  bool grad = x.requires_grad();
  for (const HeadNorm& n : norms) grad = grad || trains(ctx, n.weight);
  grad = grad && ctx.tape != nullptr;
  struct Side {
    HeadNorm norm;
    Tensor rstd;
  };
  std::vector<Side> sides;
  for (const HeadNorm& n : norms) {
    Side& s = sides.emplace_back(Side{n, {}});
    if (grad) s.rstd = ctx.empty(ctx.wide(), {rows * n.heads.heads});
    const Lease w = ctx.params->lease(n.weight);
    launch(ctx,
           RmsNormDesc{.x = n.heads.of(x),
                       .weight = w.view(),
                       .y = n.heads.of(y),
                       .saved = s.rstd.view(),
                       .eps = eps},
           "qk_norm");
  }
  between(norms, x.dim(1), [&](int64_t begin, int64_t n) {
    launch(ctx, ConvertDesc{.x = x.columns(begin, n).view(), .y = y.columns(begin, n).view()},
           "qk_norm v");
  });
  if (!grad) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, sides = std::move(sides), x, slot = y.slot()](Tape& tape) {
    Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    dy = exclusive(*c, std::move(dy));
    for (const Side& s : sides) {
      const View part = s.norm.heads.of(dy);
      const Lease w = c->params->lease(s.norm.weight);
      RmsNormBackwardDesc d{.x = s.norm.heads.of(x),
                            .weight = w.view(),
                            .saved = s.rstd.view(),
                            .dy = part,
                            .dx = part};
      if (trains(*c, s.norm.weight)) d.dweight = c->params->grad(s.norm.weight).view();
      launch(*c, d, "qk_norm");
    }
    if (x.requires_grad()) add_grad(*c, tape, x.slot(), std::move(dy));
  });
  return y;
}

Tensor rope(Context& ctx, std::span<const HeadRange> ranges, const Tensor& table, Tensor x,
            bool interleaved) {
  const auto rotate = [interleaved, all = std::vector(ranges.begin(), ranges.end())](
                          Context& ctx, const Tensor& table, const Tensor& t, bool inverse) {
    for (const HeadRange& r : all) {
      const View heads = r.of(t);
      launch(ctx,
             RopeDesc{.x = heads,
                      .table = table.view(),
                      .y = heads,
                      .inverse = inverse,
                      .interleaved = interleaved},
             "rope");
    }
  };
  const int in = x.slot();
  Tensor y = exclusive(ctx, std::move(x)).detached();
  rotate(ctx, table, y, false);
  if (ctx.tape == nullptr || in < 0) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, rotate, table, in, out = y.slot()](Tape& tape) {
    Tensor dy = tape.take(out);
    if (!dy.defined()) return;
    dy = exclusive(*c, std::move(dy));
    rotate(*c, table, dy, true);
    add_grad(*c, tape, in, std::move(dy));
  });
  return y;
}

Tensor join_heads(Context& ctx, const Heads& a, const Heads& b) {
  const int64_t heads = a.range.heads, size = a.range.dim + b.range.dim;
  HONE_CHECK(b.range.heads == heads || b.range.heads == 1);
  const HeadRange first{.begin = 0, .heads = heads, .stride = size, .dim = a.range.dim};
  const HeadRange second{.begin = a.range.dim, .heads = heads, .stride = size, .dim = b.range.dim};
  HeadRange from = b.range;  // of b, as often as there are heads
  if (from.heads < heads)
    from = {.begin = from.begin, .heads = heads, .stride = 0, .dim = from.dim};
  Tensor y = ctx.empty(a.rows.dtype(), {a.rows.dim(0), heads * size});
  launch(ctx, ConvertDesc{.x = a.range.of(a.rows), .y = first.of(y)}, "join_heads");
  launch(ctx, ConvertDesc{.x = from.of(b.rows), .y = second.of(y)}, "join_heads");
  if (ctx.tape == nullptr || !(a.rows.requires_grad() || b.rows.requires_grad())) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, a, b, first, second, slot = y.slot()](Tape& tape) {
    const Tensor dy = tape.take(slot);
    if (!dy.defined()) return;
    const auto give = [&](const Heads& to, const View& grad) {
      const GradTarget dx = columns_target(*c, tape, to);
      const View part = to.range.of(dx.grad);
      if (dx.accumulate) {
        launch(*c, AddDesc{.a = part, .b = grad, .y = part}, "join_heads dx");
      } else {
        launch(*c, ConvertDesc{.x = grad, .y = part}, "join_heads dx");
      }
    };
    if (a.rows.requires_grad()) give(a, first.of(dy));
    if (!b.rows.requires_grad()) return;
    if (b.range.heads == second.heads) return give(b, second.of(dy));
    const Tensor sum = c->empty(dy.dtype(), {dy.dim(0), second.dim});
    launch(*c, SumHeadsDesc{.x = second.of(dy), .y = sum.view()}, "join_heads dx");
    give(b, sum.heads(second.dim).view());
  });
  return y;
}

Tensor attention(Context& ctx, const AttentionPlan& plan, const Heads& q, const Heads& k,
                 const Heads& v, double scale) {
  const bool grad = ctx.tape != nullptr &&
                    (q.rows.requires_grad() || k.rows.requires_grad() || v.rows.requires_grad());
  Tensor out = ctx.empty(q.rows.dtype(), {q.rows.dim(0), q.range.heads * v.range.dim});
  AttentionDesc d =
      describe(plan, q.range.of(q.rows), k.range.of(k.rows), v.range.of(v.rows), out, scale);
  Tensor saved;
  if (grad) saved = saved_by(ctx, d);
  d.saved = saved.view();
  launch(ctx, d, "attention");
  if (!grad) return out;
  out.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, plan = &plan, q, k, v, out = out.detached(), saved, scale = d.scale,
                    slot = out.slot()](Tape& tape) {
    const Tensor dout = tape.take(slot);
    if (!dout.defined()) return;
    HeadGradients grads;
    const View dq = grads.add(*c, q), dk = grads.add(*c, k), dv = grads.add(*c, v);
    grads.clear_rest(*c);
    const int64_t value_dim = v.range.dim;
    launch(*c,
           AttentionBackwardDesc{.q = q.range.of(q.rows),
                                 .k = k.range.of(k.rows),
                                 .v = v.range.of(v.rows),
                                 .out = out.heads(value_dim).view(),
                                 .saved = saved.view(),
                                 .dout = dout.heads(value_dim).view(),
                                 .dq = dq,
                                 .dk = dk,
                                 .dv = dv,
                                 .blocks = plan->blocks.data(),
                                 .segments = plan->segments.data(),
                                 .num_segments = static_cast<int>(plan->segments.size()),
                                 .scale = scale},
           "attention dx");
    grads.hand_over(*c, tape);
  });
  return out;
}

Tensor attention(Context& ctx, const AttentionPlan& plan, const Heads& q, const Tensor& k_cache,
                 const Tensor& v_cache, double scale) {
  HONE_CHECK(ctx.tape == nullptr || !q.rows.requires_grad(), "a cache has no gradient");
  Tensor out = ctx.empty(q.rows.dtype(), {q.rows.dim(0), q.range.heads * v_cache.dim(2)});
  launch(ctx, describe(plan, q.range.of(q.rows), k_cache.view(), v_cache.view(), out, scale),
         "attention");
  return out;
}

}  // namespace hone::ops
