#include "models/block.h"

namespace hone::models {
namespace {

std::unique_ptr<nn::Mixer> make(const nn::GqaSpec& spec, const nn::PartSite& site) {
  return std::make_unique<nn::Gqa>(spec, site);
}
std::unique_ptr<nn::Mixer> make(const nn::MlaSpec& spec, const nn::PartSite& site) {
  return std::make_unique<nn::Mla>(spec, site);
}
std::unique_ptr<nn::Mlp> make(const nn::GatedMlpSpec& spec, const nn::PartSite& site) {
  return std::make_unique<nn::GatedMlp>(spec, site);
}
std::unique_ptr<nn::Mlp> make(const nn::MoeSpec& spec, const nn::PartSite& site) {
  return std::make_unique<nn::Moe>(spec, site);
}

}  // namespace

Block::Block(const BlockSpec& spec, const nn::PartSite& site) : unit_(site.unit), eps_(spec.eps) {
  const auto norm = [&](const char* name) {
    return nn::add_vector(site.store, site.path + "." + name + ".weight", spec.hidden, site.unit,
                          site.format);
  };
  const auto part = [&](const char* name) {
    nn::PartSite inner = site;
    inner.path += std::string(".") + name;
    return inner;
  };
  mixer_norm_ = norm("input_layernorm");
  mixer_ = std::visit([&](const auto& s) { return make(s, part("self_attn")); }, spec.mixer);
  mlp_norm_ = norm("post_attention_layernorm");
  mlp_ = std::visit([&](const auto& s) { return make(s, part("mlp")); }, spec.mlp);
}

BlockOut Block::forward(Context& ctx, const nn::MixerCall& call, const Tensor& x) const {
  const Tensor mixed =
      mixer_->forward(ctx, call, ops::rms_norm(ctx, mixer_norm_, eps_, x, "norm1"), x);
  return mlp_->forward(ctx, ops::rms_norm(ctx, mlp_norm_, eps_, mixed, "norm2"), mixed,
                       call.some ? call.stream.wanted_ids : call.stream.row_ids);
}

std::vector<nn::Linear*> Block::linears() {
  std::vector<nn::Linear*> all = mixer_->linears();
  const std::vector<nn::Linear*> mlp = mlp_->linears();
  all.insert(all.end(), mlp.begin(), mlp.end());
  return all;
}

}  // namespace hone::models
