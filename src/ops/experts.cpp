#include "ops/experts.h"

#include "backend/desc/elementwise.h"
#include "backend/desc/gemm.h"
#include "exec/memory.h"

namespace hone::ops {
namespace {

bool trains(const Context& ctx, ParamId id) { return ctx.params->spec(id).trainable; }

// The experts that the rows of a stream chose, [T, K] on the host.
std::vector<int32_t> chosen(const Context& ctx, const Tensor& experts, int64_t count) {
  std::vector<int32_t> all(static_cast<size_t>(experts.numel()));
  if (ctx.device->meta) {
    for (size_t i = 0; i < all.size(); ++i)
      all[i] = static_cast<int32_t>(i % static_cast<size_t>(count));
    return all;
  }
  const auto values = readable_as<int32_t>(*ctx.device, experts.view());
  std::copy(values.begin(), values.end(), all.begin());
  return all;
}

// Sorts rows by expert; a row's place keeps the stream's order within an expert.
std::shared_ptr<const ExpertRows> sorted(Context& ctx, const std::vector<int32_t>& experts,
                                         int64_t count, int64_t each) {
  auto rows = std::make_shared<ExpertRows>();
  rows->offsets.assign(static_cast<size_t>(count) + 1, 0);
  for (const int32_t e : experts) ++rows->offsets[static_cast<size_t>(e) + 1];
  for (size_t e = 1; e < rows->offsets.size(); ++e) rows->offsets[e] += rows->offsets[e - 1];
  std::vector<int32_t> next = rows->offsets, places(experts.size()), source(experts.size());
  for (size_t i = 0; i < experts.size(); ++i) {
    places[i] = next[static_cast<size_t>(experts[i])]++;
    source[static_cast<size_t>(places[i])] = static_cast<int32_t>(i / static_cast<size_t>(each));
  }
  rows->rows = upload(ctx, std::span<const int32_t>(source));
  const int64_t shape[] = {static_cast<int64_t>(places.size()) / each, each};
  rows->places = upload(ctx, std::span<const int32_t>(places)).part(0, shape);
  return rows;
}

// Views of a parameter that holds a matrix [rows, cols] for each expert one after the other; of
// `count` rows of each from `first` on.
std::vector<WeightView> matrices(const Lease& lease, size_t experts, int64_t first, int64_t count) {
  const WeightView& all = lease.weight();
  const int64_t each = all.rows / static_cast<int64_t>(experts);
  std::vector<WeightView> views(experts, all);
  for (size_t e = 0; e < experts; ++e) {
    views[e].rows = count;
    if (all.data == nullptr) continue;  // a meta device
    views[e].data = static_cast<const char*>(all.data) +
                    (static_cast<int64_t>(e) * each + first) * all.stride_bytes;
  }
  return views;
}

std::vector<View> gradients(const Tensor& grad, size_t experts) {
  const int64_t shape[] = {grad.dim(0) / static_cast<int64_t>(experts), grad.dim(1)};
  std::vector<View> views;
  for (size_t e = 0; e < experts; ++e)
    views.push_back(grad.part(static_cast<int64_t>(e) * shape[0] * shape[1], shape).view());
  return views;
}

// One matrix of each expert, leased.
struct Weights {
  std::vector<Lease> leases;
  std::vector<WeightView> views;
  Weights(const ParamStore& params, const std::vector<ParamId>& ids) {
    leases.reserve(ids.size());
    for (const ParamId id : ids) views.push_back(leases.emplace_back(params.lease(id)).weight());
  }
};

struct Call {
  ExpertLinear params;
  std::shared_ptr<const ExpertRows> rows;
  std::vector<int64_t> widths;  // of the matrices, side by side
  bool lora = false, weights_train = false;
  size_t experts() const { return params.weights.front().size(); }
  int groups() const { return static_cast<int>(experts()); }
};

Tensor low_rank(Context& ctx, const Call& call, const Tensor& x, GemmOp op, ParamId id,
                const char* label) {
  const Lease lease = ctx.params->lease(id);
  const int64_t each = lease.weight().rows / static_cast<int64_t>(call.experts());
  const auto views = matrices(lease, call.experts(), 0, each);
  Tensor z = ctx.empty(ctx.wide(), {x.dim(0), op == GemmOp::nt ? each : lease.weight().cols});
  launch(ctx,
         GemmDesc{.op = op,
                  .x = x.view(),
                  .weights = views.data(),
                  .groups = call.groups(),
                  .row_offsets = call.rows->offsets.data(),
                  .y = z.view(),
                  .alpha = call.params.lora->scale},
         label);
  return z;
}

Tensor forward(Context& ctx, const Call& call, const Tensor& x, const Tensor& z) {
  int64_t width = 0, begin = 0;
  for (const int64_t w : call.widths) width += w;
  Tensor y = ctx.empty(ctx.dtype, {x.dim(0), width});
  std::optional<Lease> b;
  if (call.lora) b.emplace(ctx.params->lease(call.params.lora->b));
  for (size_t i = 0; i < call.widths.size(); ++i) {
    const Weights w(*ctx.params, call.params.weights[i]);
    std::vector<WeightView> second;
    const Tensor part = y.columns(begin, call.widths[i]);
    GemmDesc d{.x = x.view(),
               .weights = w.views.data(),
               .groups = call.groups(),
               .row_offsets = call.rows->offsets.data(),
               .y = part.view()};
    if (call.lora) {
      second = matrices(*b, call.experts(), begin, call.widths[i]);
      d.x2 = z.view();
      d.weights2 = second.data();
    }
    launch(ctx, d, call.params.label);
    begin += call.widths[i];
  }
  return y;
}

// dx (+)= dy W over all matrices + dz A, summed in fp32 and rounded once.
void input_gradient(Context& ctx, const Call& call, const Tensor& dy, const Tensor& dz,
                    const GradTarget& target) {
  const size_t last = call.widths.size() - 1;
  Tensor sum = target.grad;
  bool has_value = target.accumulate;
  if (last != 0 && sum.dtype() != ctx.wide()) {
    sum = ctx.empty(ctx.wide(), {target.grad.dim(0), target.grad.dim(1)});
    if (has_value) launch(ctx, ConvertDesc{.x = target.grad.view(), .y = sum.view()}, "dx");
  }
  std::optional<Lease> a;
  std::vector<WeightView> second;
  int64_t begin = 0;
  for (size_t i = 0; i <= last; ++i) {
    const Weights w(*ctx.params, call.params.weights[i]);
    const Tensor part = dy.columns(begin, call.widths[i]);
    GemmDesc d{.op = GemmOp::nn,
               .x = part.view(),
               .weights = w.views.data(),
               .groups = call.groups(),
               .row_offsets = call.rows->offsets.data(),
               .y = i == last ? target.grad.view() : sum.view()};
    if (has_value) d.add = sum.view();
    if (i == last && dz.defined()) {
      const Lease& lease = a.emplace(ctx.params->lease(call.params.lora->a));
      second = matrices(lease, call.experts(), 0, dz.dim(1));
      d.x2 = dz.view();
      d.weights2 = second.data();
    }
    launch(ctx, d, call.params.label);
    has_value = true;
    begin += call.widths[i];
  }
}

void weight_gradient(Context& ctx, const Call& call, const Tensor& dy, const Tensor& x,
                     const std::vector<View>& dw, const char* label) {
  launch(ctx,
         GemmDwDesc{.dy = dy.view(),
                    .x = x.view(),
                    .dw = dw.data(),
                    .groups = call.groups(),
                    .row_offsets = call.rows->offsets.data()},
         label);
}

void weight_gradients(Context& ctx, const Call& call, const Tensor& x, const Tensor& z,
                      const Tensor& dy, const Tensor& dz) {
  int64_t begin = 0;
  for (size_t i = 0; call.weights_train && i < call.widths.size(); ++i) {
    std::vector<View> dw;
    for (const ParamId id : call.params.weights[i]) dw.push_back(ctx.params->grad(id).view());
    weight_gradient(ctx, call, dy.columns(begin, call.widths[i]), x, dw, call.params.label);
    begin += call.widths[i];
  }
  if (!dz.defined()) return;
  const Lora& lora = *call.params.lora;
  if (trains(ctx, lora.b))
    weight_gradient(ctx, call, dy, z, gradients(ctx.params->grad(lora.b), call.experts()),
                    "lora dB");
  if (trains(ctx, lora.a))
    weight_gradient(ctx, call, dz, x, gradients(ctx.params->grad(lora.a), call.experts()),
                    "lora dA");
}

Call describe(const Context& ctx, const ExpertLinear& params,
              const std::shared_ptr<const ExpertRows>& rows) {
  Call call{.params = params, .rows = rows};
  call.lora = ctx.adapters && params.lora.has_value();
  HONE_CHECK(!call.lora || params.lora->dropout == 0 || !ctx.training,
             "experts' adapters have no dropout");
  size_t trained = 0, all = 0;
  for (const std::vector<ParamId>& matrix : params.weights) {
    call.widths.push_back(ctx.params->spec(matrix.front()).shape[0]);
    for (const ParamId id : matrix) trained += trains(ctx, id) ? 1 : 0;
    all += matrix.size();
  }
  HONE_CHECK(trained == 0 || trained == all, "experts are trained all or none");
  call.weights_train = trained != 0;
  return call;
}

}  // namespace

Routed route(Context& ctx, const RouteOptions& options, const Tensor& logits) {
  const int64_t rows = logits.dim(0), experts = logits.dim(1), k = options.experts_per_row;
  const Tensor choice = ctx.empty(DType::i32, {rows, k});
  Routed out;
  out.weights = ctx.empty(options.wide_weights ? ctx.wide() : logits.dtype(), {rows, k});
  launch(ctx,
         RouteDesc{.logits = logits.view(),
                   .experts = choice.view(),
                   .weights = out.weights.view(),
                   .rule = options.rule},
         "route");
  out.rows = sorted(ctx, chosen(ctx, choice, experts), experts, k);
  if (ctx.tape == nullptr || !logits.requires_grad()) return out;
  out.weights.set_slot(ctx.tape->new_slot());
  ctx.tape->record(
      [c = &ctx, logits, choice, rule = options.rule, slot = out.weights.slot()](Tape& tape) {
        const Tensor dweights = tape.take(slot);
        if (!dweights.defined()) return;
        Tensor dlogits = c->empty(logits.dtype(), {logits.dim(0), logits.dim(1)});
        launch(*c,
               RouteBackwardDesc{.logits = logits.view(),
                                 .experts = choice.view(),
                                 .dweights = dweights.view(),
                                 .dlogits = dlogits.view(),
                                 .rule = rule},
               "route dx");
        add_grad(*c, tape, logits.slot(), std::move(dlogits));
      });
  return out;
}

Tensor to_experts(Context& ctx, const std::shared_ptr<const ExpertRows>& rows, const Tensor& x) {
  Tensor y = ctx.empty(x.dtype(), {rows->count(), x.dim(1)});
  launch(ctx, GatherRowsDesc{.x = x.view(), .rows = rows->rows.view(), .y = y.view()},
         "to_experts");
  if (ctx.tape == nullptr || !x.requires_grad()) return y;
  y.set_slot(ctx.tape->new_slot());
  ctx.tape->record(
      [c = &ctx, rows, out = y.slot(), in = x.slot(), dtype = x.dtype(), t = x.dim(0)](Tape& tape) {
        const Tensor dy = tape.take(out);
        if (!dy.defined()) return;
        GradTarget dx;
        if (tape.grad(in).defined()) {
          dx = grad_target(*c, tape, in, tape.grad(in));
        } else {
          dx.grad = c->empty(dtype, {t, dy.dim(1)});
          tape.assign(in, dx.grad);
        }
        CombineDesc d{.x = dy.view(), .places = rows->places.view(), .y = dx.grad.view()};
        if (dx.accumulate) d.add = dx.grad.view();
        launch(*c, d, "to_experts dx");
      });
  return y;
}

Tensor expert_linear(Context& ctx, const ExpertLinear& params,
                     const std::shared_ptr<const ExpertRows>& rows, const Tensor& x) {
  const Call call = describe(ctx, params, rows);
  Tensor z;
  if (call.lora) z = low_rank(ctx, call, x, GemmOp::nt, params.lora->a, "lora z");
  Tensor y = forward(ctx, call, x, z);
  const bool any_trains =
      call.weights_train ||
      (call.lora && (trains(ctx, params.lora->a) || trains(ctx, params.lora->b)));
  if (ctx.tape == nullptr || !(x.requires_grad() || any_trains)) return y;
  y.set_slot(ctx.tape->new_slot());
  // Only gradients pass through: keep no activations.
  if (!any_trains) z = Tensor();
  ctx.tape->record([c = &ctx, call, z, x = any_trains ? x : Tensor(), in = x.slot(),
                    dtype = x.dtype(), width = x.dim(1), any_trains, out = y.slot()](Tape& tape) {
    Context& ctx = *c;
    const Tensor dy = tape.take(out);
    if (!dy.defined()) return;
    Tensor dz;
    if (call.lora) dz = low_rank(ctx, call, dy, GemmOp::nn, call.params.lora->b, "lora dz");
    if (in >= 0) {
      GradTarget dx;
      if (tape.grad(in).defined()) {
        dx = grad_target(ctx, tape, in, tape.grad(in));
      } else {
        dx.grad = ctx.empty(dtype, {dy.dim(0), width});
        tape.assign(in, dx.grad);
      }
      input_gradient(ctx, call, dy, dz, dx);
    }
    if (!any_trains) return;
    tape.defer([ctx = with_tape(ctx, nullptr), call, x, z, dy, dz]() mutable {
      weight_gradients(ctx, call, x, z, dy, dz);
    });
  });
  return y;
}

Tensor combine(Context& ctx, const Routed& routed, const Tensor& y, const Tensor& add,
               const CombineOptions& options) {
  const Tensor& places = routed.rows->places;
  Tensor out = ctx.empty(options.wide ? ctx.wide() : y.dtype(), {places.dim(0), y.dim(1)});
  if (!(options.last && ctx.output_unneeded)) {
    launch(ctx,
           CombineDesc{.x = y.view(),
                       .places = places.view(),
                       .weights = routed.weights.view(),
                       .add = add.view(),
                       .y = out.view()},
           "combine");
  }
  const bool grad = y.requires_grad() || add.requires_grad() || routed.weights.requires_grad();
  if (ctx.tape == nullptr || !grad) return out;
  out.set_slot(ctx.tape->new_slot());
  ctx.tape->record([c = &ctx, routed, y = routed.weights.requires_grad() ? y : Tensor(),
                    rows = y.dim(0), dtype = y.dtype(), y_slot = y.slot(), add_slot = add.slot(),
                    slot = out.slot()](Tape& tape) {
    const Tensor dout = tape.take(slot);
    if (!dout.defined()) return;
    if (add_slot >= 0) add_grad(*c, tape, add_slot, dout);
    const View places = routed.rows->places.view();
    CombineBackwardDesc d{
        .x = y.view(), .places = places, .weights = routed.weights.view(), .dy = dout.view()};
    Tensor dy, dweights;
    if (y_slot >= 0) {
      dy = c->empty(dtype, {rows, dout.dim(1)});
      d.dx = dy.view();
    }
    if (routed.weights.requires_grad()) {
      dweights = c->empty(c->wide(), {places.shape[0], places.shape[1]});
      d.dweights = dweights.view();
    }
    if (!dy.defined() && !dweights.defined()) return;
    launch(*c, d, "combine dx");
    if (dy.defined()) add_grad(*c, tape, y_slot, std::move(dy));
    if (dweights.defined()) add_grad(*c, tape, routed.weights.slot(), std::move(dweights));
  });
  return out;
}

}  // namespace hone::ops
