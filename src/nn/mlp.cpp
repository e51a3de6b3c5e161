#include "nn/mlp.h"

namespace hone::nn {

GatedMlp::GatedMlp(const GatedMlpSpec& spec, const PartSite& site) {
  const auto projection = [&](const char* name, int64_t in, int64_t out, Placement placement,
                              const char* label) {
    return add_linear(site.store, {.path = site.path + "." + name,
                                   .in = in,
                                   .out = out,
                                   .bias = spec.bias,
                                   .unit = site.unit,
                                   .format = site.format,
                                   .placement = placement,
                                   .label = label});
  };
  gate_ = projection("gate_proj", spec.hidden, spec.intermediate, Placement::column, "mlp.gate");
  up_ = projection("up_proj", spec.hidden, spec.intermediate, Placement::column, "mlp.up");
  down_ = projection("down_proj", spec.intermediate, spec.hidden, Placement::row, "mlp.down");
}

BlockOut GatedMlp::forward(Context& ctx, Tensor normed, const Tensor& x,
                           const Tensor& row_ids) const {
  return {apply(ctx, std::move(normed), x, row_ids, /*last=*/true)};
}

Tensor GatedMlp::apply(Context& ctx, Tensor normed, const Tensor& add, const Tensor& row_ids,
                       bool last) const {
  const ops::LinearParams parts[] = {gate_.params, up_.params};
  Tensor h;
  {
    const Tensor gate_up = ops::linear(ctx, parts, normed, {}, row_ids);
    h = ops::swiglu(ctx, gate_up);
    normed = Tensor();
  }
  return ops::linear(ctx, {&down_.params, 1}, h, add, row_ids, last);
}

}  // namespace hone::nn
