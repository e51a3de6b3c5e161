#include "ops/linear.h"

#include <vector>

#include "backend/desc/elementwise.h"
#include "backend/desc/gemm.h"

namespace hone::ops {
namespace {

// What backward needs of one part.
struct Part {
  LinearParams params;
  int64_t begin = 0;  // first column in y
  int64_t out = 0;
  Tensor z;  // scale * dropout(x) Aᵀ [T, R]
};

bool lora_on(const Context& ctx, const LinearParams& p) {
  return ctx.adapters && p.lora.has_value();
}

bool drops(const Context& ctx, const LinearParams& p) {
  return ctx.training && p.lora->dropout > 0;
}

Tensor dropped(Context& ctx, const LinearParams& p, const Tensor& x, const Tensor& row_ids) {
  if (!drops(ctx, p)) return x;
  Tensor y = ctx.empty(x.dtype(), {x.dim(0), x.dim(1)});
  launch(ctx,
         DropoutDesc{.x = x.view(),
                     .y = y.view(),
                     .row_ids = row_ids.view(),
                     .seed = ctx.seed,
                     .salt = p.lora->salt,
                     .p = p.lora->dropout},
         p.label);
  return y;
}

bool trains(const Context& ctx, ParamId id) {
  return id != kNoParam && ctx.params->spec(id).trainable;
}

// dW, dbias, dA, dB of one part.
void weight_gradients(Context& ctx, const Part& part, const Tensor& x, const Tensor& row_ids,
                      const Tensor& dy, const Tensor& dz) {
  const LinearParams& p = part.params;
  const bool weight = trains(ctx, p.weight), bias = trains(ctx, p.bias);
  if (weight || bias) {
    const View dw = weight ? ctx.params->grad(p.weight).view() : View{};
    GemmDwDesc d{.dy = dy.view(), .x = x.view()};
    if (weight) d.dw = &dw;
    d.groups = weight ? 1 : 0;
    if (bias) d.dbias = ctx.params->grad(p.bias).view();
    launch(ctx, d, p.label);
  }
  if (!dz.defined()) return;
  if (trains(ctx, p.lora->b)) {
    const View db = ctx.params->grad(p.lora->b).view();
    launch(ctx, GemmDwDesc{.dy = dy.view(), .x = part.z.view(), .dw = &db}, "lora dB");
  }
  if (trains(ctx, p.lora->a)) {
    const Tensor xd = dropped(ctx, p, x, row_ids);
    const View da = ctx.params->grad(p.lora->a).view();
    launch(ctx, GemmDwDesc{.dy = dz.view(), .x = xd.view(), .dw = &da}, "lora dA");
  }
}

// dx (+)= dy W + dz A over all parts, summed in fp32 and rounded once.
void input_gradient(Context& ctx, const std::vector<Part>& parts, const std::vector<Tensor>& dys,
                    const std::vector<Tensor>& dzs, const Tensor& row_ids,
                    const GradTarget& target) {
  bool any_dropout = false;
  for (const Part& part : parts)
    any_dropout |= lora_on(ctx, part.params) && drops(ctx, part.params);
  const bool direct = parts.size() == 1 && !any_dropout;
  Tensor sum = target.grad;
  if (!direct && sum.dtype() != ctx.wide()) {
    sum = ctx.empty(ctx.wide(), {target.grad.dim(0), target.grad.dim(1)});
    if (target.accumulate) launch(ctx, ConvertDesc{.x = target.grad.view(), .y = sum.view()}, "dx");
  }
  bool has_value = target.accumulate;
  for (size_t i = 0; i < parts.size(); ++i) {
    const LinearParams& p = parts[i].params;
    const Lease w = ctx.params->lease(p.weight);
    const WeightView& weight = w.weight();
    const bool lora = dzs[i].defined(), masked = lora && drops(ctx, p);
    // The last product of an undropped group rounds straight into dx.
    const bool final = !any_dropout && i + 1 == parts.size();
    GemmDesc d{.op = GemmOp::nn,
               .x = dys[i].view(),
               .weights = &weight,
               .y = final ? target.grad.view() : sum.view()};
    if (has_value) d.add = sum.view();
    std::optional<Lease> a;
    if (lora) a.emplace(ctx.params->lease(p.lora->a));
    if (lora && !masked) {
      d.x2 = dzs[i].view();
      d.weights2 = &a->weight();
    }
    launch(ctx, d, p.label);
    has_value = true;
    if (masked) {
      Tensor dxd = ctx.empty(ctx.wide(), {sum.dim(0), sum.dim(1)});
      launch(
          ctx,
          GemmDesc{.op = GemmOp::nn, .x = dzs[i].view(), .weights = &a->weight(), .y = dxd.view()},
          "lora dx");
      launch(ctx,
             DropoutDesc{.x = dxd.view(),
                         .y = sum.view(),
                         .row_ids = row_ids.view(),
                         .seed = ctx.seed,
                         .salt = p.lora->salt,
                         .p = p.lora->dropout,
                         .accumulate = true},
             p.label);
    }
  }
  if (any_dropout && sum.view().data != target.grad.view().data) {
    launch(ctx, ConvertDesc{.x = sum.view(), .y = target.grad.view()}, "dx");
  } else if (any_dropout && ctx.device->meta && sum.dtype() != target.grad.dtype()) {
    launch(ctx, ConvertDesc{.x = sum.view(), .y = target.grad.view()}, "dx");
  }
}

}  // namespace

Tensor linear(Context& ctx, std::span<const LinearParams> parts, const Tensor& x, const Tensor& add,
              const Tensor& row_ids, bool last) {
  HONE_CHECK(!add.defined() || parts.size() == 1);
  const int64_t rows = x.dim(0);
  int64_t width = 0;
  bool any_trains = false;
  std::vector<Part> saved;
  for (const LinearParams& p : parts) {
    const int64_t out = ctx.params->spec(p.weight).shape[0];
    saved.push_back({p, width, out, {}});
    width += out;
    any_trains |= trains(ctx, p.weight) || trains(ctx, p.bias);
    if (lora_on(ctx, p)) any_trains |= trains(ctx, p.lora->a) || trains(ctx, p.lora->b);
  }
  Tensor y = ctx.empty(ctx.dtype, {rows, width});
  const bool skip_value = last && ctx.output_unneeded;
  for (Part& part : saved) {
    const LinearParams& p = part.params;
    const bool lora = lora_on(ctx, p);
    std::optional<Lease> b, bias;
    if (lora) {
      const Tensor xd = dropped(ctx, p, x, row_ids);
      const Lease a = ctx.params->lease(p.lora->a);
      part.z = ctx.empty(ctx.wide(), {rows, a.weight().rows});
      launch(
          ctx,
          GemmDesc{
              .x = xd.view(), .weights = &a.weight(), .y = part.z.view(), .alpha = p.lora->scale},
          "lora z");
    }
    if (skip_value) continue;
    const Lease w = ctx.params->lease(p.weight);
    const Tensor y_part = y.columns(part.begin, part.out);
    GemmDesc d{.x = x.view(), .weights = &w.weight(), .y = y_part.view()};
    if (lora) {
      b.emplace(ctx.params->lease(p.lora->b));
      d.x2 = part.z.view();
      d.weights2 = &b->weight();
    }
    if (p.bias != kNoParam) d.bias = bias.emplace(ctx.params->lease(p.bias)).view();
    if (add.defined()) d.add = add.view();
    launch(ctx, d, p.label);
  }
  const bool needs_grad = x.requires_grad() || (add.defined() && add.requires_grad()) || any_trains;
  if (ctx.tape == nullptr || !needs_grad) return y;
  y.set_slot(ctx.tape->new_slot());
  const int add_slot = add.defined() ? add.slot() : -1;
  if (!any_trains) {
    // Only gradients pass through: keep no activations.
    for (Part& part : saved) part.z = Tensor();
  }
  ctx.tape->record([c = &ctx, saved = std::move(saved), x = any_trains ? x : Tensor(),
                    x_slot = x.slot(), x_dtype = x.dtype(), in = x.dim(1), row_ids, any_trains,
                    y_slot = y.slot(), add_slot](Tape& tape) {
    Context& ctx = *c;
    const Tensor dy = tape.take(y_slot);
    if (!dy.defined()) return;
    if (add_slot >= 0) add_grad(ctx, tape, add_slot, dy);
    std::vector<Tensor> dys, dzs;
    for (const Part& part : saved) {
      const LinearParams& p = part.params;
      dys.push_back(dy.columns(part.begin, part.out));
      Tensor dz;
      if (lora_on(ctx, p)) {
        const Lease b = ctx.params->lease(p.lora->b);
        dz = ctx.empty(ctx.wide(), {dy.dim(0), b.weight().cols});
        launch(ctx,
               GemmDesc{.op = GemmOp::nn,
                        .x = dys.back().view(),
                        .weights = &b.weight(),
                        .y = dz.view(),
                        .alpha = p.lora->scale},
               "lora dz");
      }
      dzs.push_back(std::move(dz));
    }
    if (x_slot >= 0) {
      const Tensor& grad = tape.grad(x_slot);
      GradTarget target;
      if (grad.defined()) {
        target = grad_target(ctx, tape, x_slot, grad);
      } else {
        target = {ctx.empty(x_dtype, {dy.dim(0), in}), false};
        tape.assign(x_slot, target.grad);
      }
      input_gradient(ctx, saved, dys, dzs, row_ids, target);
    }
    if (!any_trains) return;
    tape.defer([ctx = with_tape(ctx, nullptr), saved, dys, dzs, x, row_ids]() mutable {
      for (size_t i = 0; i < saved.size(); ++i)
        weight_gradients(ctx, saved[i], x, row_ids, dys[i], dzs[i]);
    });
  });
  return y;
}

}  // namespace hone::ops
