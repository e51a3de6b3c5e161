#include "nn/moe.h"

namespace hone::nn {
namespace {

// One matrix of every expert, under the names of the folder.
std::vector<ParamId> add_matrices(const MoeSpec& spec, const PartSite& site,
                                  const std::string& folder_path, const char* name, int64_t in,
                                  int64_t out) {
  std::vector<ParamId> ids;
  for (int64_t e = 0; e < spec.experts; ++e) {
    ids.push_back(site.store.add(
        {.name = folder_path + ".experts." + std::to_string(e) + "." + name + ".weight",
         .shape = {out, in},
         .format = site.format,
         .placement = Placement::expert,
         .unit = site.unit}));
  }
  return ids;
}

ops::ExpertLinear expert_params(const Linear& linear) {
  return {.weights = linear.experts, .lora = linear.params.lora, .label = linear.params.label};
}

}  // namespace

Moe::Moe(const MoeSpec& spec, const PartSite& site) : spec_(spec) {
  const std::string folder_path = site.path.substr(0, site.path.rfind('.') + 1) + spec.module;
  router_ = add_linear(site.store, {.path = folder_path + ".gate",
                                    .in = spec.hidden,
                                    .out = spec.experts,
                                    .unit = site.unit,
                                    .format = site.format,
                                    .label = "moe.router"});
  router_.path = site.path + ".gate";
  router_.router = true;
  gate_up_ = {.path = site.path + ".experts.gate_up_proj",
              .in = spec.hidden,
              .out = 2 * spec.intermediate,
              .unit = site.unit};
  down_ = {.path = site.path + ".experts.down_proj",
           .in = spec.intermediate,
           .out = spec.hidden,
           .unit = site.unit};
  for (const char* name : {spec.gate, spec.up})
    gate_up_.experts.push_back(
        add_matrices(spec, site, folder_path, name, spec.hidden, spec.intermediate));
  down_.experts.push_back(
      add_matrices(spec, site, folder_path, spec.down, spec.intermediate, spec.hidden));
  gate_up_.params.label = "moe.gate_up";
  down_.params.label = "moe.down";
  if (spec.shared_intermediate == 0) return;
  PartSite inner = site;
  inner.path += ".shared_expert";
  shared_.emplace(
      Shared{GatedMlp({.hidden = spec.hidden, .intermediate = spec.shared_intermediate}, inner),
             add_linear(site.store, {.path = site.path + ".shared_expert_gate",
                                     .in = spec.hidden,
                                     .out = 1,
                                     .unit = site.unit,
                                     .format = site.format,
                                     .label = "moe.shared_gate"})});
}

// A mixture of one expert, which every token takes.
Tensor Moe::shared(Context& ctx, const Tensor& normed, const Tensor& x,
                   const Tensor& row_ids) const {
  const Tensor logits = ops::linear(ctx, {&shared_->gate.params, 1}, normed, {}, row_ids);
  const ops::Routed all = ops::route(
      ctx, {.rule = {.scores = RouteRule::Scores::sigmoid}, .experts_per_row = 1}, logits);
  return ops::combine(ctx, all, shared_->mlp.apply(ctx, normed, {}, row_ids, false), x,
                      {.wide = true});
}

BlockOut Moe::forward(Context& ctx, Tensor normed, const Tensor& x, const Tensor& row_ids) const {
  const Tensor logits = ops::linear(ctx, {&router_.params, 1}, normed, {}, row_ids);
  const ops::Routed routed = ops::route(ctx,
                                        {.rule = spec_.rule,
                                         .experts_per_row = spec_.experts_per_token,
                                         .wide_weights = spec_.wide_weights},
                                        logits);
  const Tensor base = shared_ ? shared(ctx, normed, x, row_ids) : x;
  Tensor h = ops::to_experts(ctx, routed.rows, normed);
  normed = Tensor();
  h = ops::expert_linear(ctx, expert_params(gate_up_), routed.rows, h);
  h = ops::swiglu(ctx, h);
  h = ops::expert_linear(ctx, expert_params(down_), routed.rows, h);
  return {ops::combine(ctx, routed, h, base, {.last = true})};
}

std::vector<Linear*> Moe::linears() {
  std::vector<Linear*> all = {&router_, &gate_up_, &down_};
  if (shared_) {
    for (Linear* l : shared_->mlp.linears()) all.push_back(l);
    all.push_back(&shared_->gate);
  }
  return all;
}

}  // namespace hone::nn
