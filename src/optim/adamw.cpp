#include "optim/adamw.h"

#include <cmath>
#include <numbers>

#include "backend/desc/elementwise.h"
#include "backend/desc/optim.h"
#include "exec/memory.h"

namespace hone::optim {
namespace {

View flat(View v) {
  View f;
  f.data = v.data;
  f.dtype = v.dtype;
  f.rank = 1;
  f.shape[0] = v.numel();
  f.stride[0] = 1;
  return f;
}

float* floats(const Tensor& t) {
  HONE_CHECK(t.dtype() == DType::f32);
  return t.view().as<float>();
}

Tensor state_like(Context& ctx, const ParamSpec& spec) {
  return ctx.empty(DType::f32, {spec.numel()}, MemoryKind::optimizer);
}

}  // namespace

AdamW::AdamW(Context& ctx, const AdamWOptions& options) : options_(options) {
  std::vector<Tensor> zeros;
  for (const ParamId id : ctx.params->trainable()) {
    const ParamSpec& spec = ctx.params->spec(id);
    const bool bias = spec.name.ends_with(".bias");
    const bool norm = spec.name.find("norm") != std::string::npos;
    Entry e{.param = id, .weight_decay = options.weight_decay};
    if ((bias && !options.decay_bias) || (norm && !options.decay_norm)) e.weight_decay = 0;
    e.exp_avg = state_like(ctx, spec);
    e.exp_avg_sq = state_like(ctx, spec);
    zeros.insert(zeros.end(), {e.exp_avg, e.exp_avg_sq});
    if (spec.format != Format::f32) {
      e.master = state_like(ctx, spec);
      launch(ctx, ConvertDesc{.x = flat(ctx.params->value(id).view()), .y = e.master.view()},
             "optimizer init");
    }
    entries_.push_back(std::move(e));
  }
  zero(ctx, zeros, "optimizer init");
}

void AdamW::step(Context& ctx, double lr, double grad_scale, int64_t step) {
  std::vector<AdamWArrays> list;
  for (const Entry& e : entries_) {
    const Tensor value = ctx.params->value(e.param);
    const bool rounded = e.master.defined();
    list.push_back({.param = floats(rounded ? e.master : value),
                    .grad = floats(ctx.params->grad(e.param)),
                    .exp_avg = floats(e.exp_avg),
                    .exp_avg_sq = floats(e.exp_avg_sq),
                    .weight = rounded ? value.view().data : nullptr,
                    .weight_dtype = value.dtype(),
                    .n = value.numel(),
                    .weight_decay = e.weight_decay});
  }
  launch(ctx,
         AdamWDesc{.list = list,
                   .lr = lr,
                   .beta1 = options_.beta1,
                   .beta2 = options_.beta2,
                   .eps = options_.eps,
                   .grad_scale = grad_scale,
                   .step = step},
         "adamw");
  ctx.params->values_changed();
}

std::vector<OptimizerState> AdamW::states() const {
  std::vector<OptimizerState> all;
  for (const Entry& e : entries_) {
    all.push_back({e.param, "exp_avg", e.exp_avg});
    all.push_back({e.param, "exp_avg_sq", e.exp_avg_sq});
    if (e.master.defined()) all.push_back({e.param, "master", e.master});
  }
  return all;
}

void AdamW::restored(Context& ctx) {
  for (const Entry& e : entries_) {
    if (!e.master.defined()) continue;
    launch(ctx, ConvertDesc{.x = e.master.view(), .y = flat(ctx.params->value(e.param).view())},
           "restore");
  }
  ctx.params->values_changed();
}

double gradient_norm(Context& ctx) {
  const Tensor sum = ctx.empty(DType::f64, {1}, MemoryKind::workspace);
  zero(ctx, sum, "grad norm");
  std::vector<FloatArray> list;
  for (const ParamId id : ctx.params->trainable()) {
    const Tensor& grad = ctx.params->grad(id);
    list.push_back({floats(grad), grad.numel()});
  }
  launch(ctx, SumSquaresDesc{.list = list, .out = sum.view()}, "grad norm");
  return std::sqrt(read(ctx, sum, 1.0)[0]);
}

double clip_scale(double norm, double max_norm) {
  if (max_norm <= 0) return 1;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

Schedule parse_schedule(std::string_view name) {
  if (name == "cosine") return Schedule::cosine;
  if (name == "linear") return Schedule::linear;
  if (name == "constant") return Schedule::constant;
  user_error("lr_scheduler", "\"{}\" is not a schedule; use cosine, linear or constant", name);
}

double learning_rate(Schedule schedule, double base, int64_t s, int64_t total, int64_t warmup) {
  if (s < warmup) return base * static_cast<double>(s + 1) / static_cast<double>(warmup);
  const double span = static_cast<double>(std::max<int64_t>(1, total - warmup));
  const double done = static_cast<double>(s - warmup) / span;
  switch (schedule) {
    case Schedule::cosine:
      return base * (0.1 + 0.45 * (1 + std::cos(std::numbers::pi * done)));
    case Schedule::linear:
      return base * std::max(0.0, 1 - done);
    case Schedule::constant:
      return base;
  }
  return base;
}

}  // namespace hone::optim
