// Blocks of a decoder: what a family says of one, and one with its parameters.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "nn/gqa.h"
#include "nn/mla.h"
#include "nn/mlp.h"
#include "nn/moe.h"

namespace hone::models {

// A block, described: x + mixer(norm(x)), then x + mlp(norm(x)).
struct BlockSpec {
  int64_t hidden = 0;
  double eps = 1e-6;  // of the norms
  std::variant<nn::GqaSpec, nn::MlaSpec> mixer;
  std::variant<nn::GatedMlpSpec, nn::MoeSpec> mlp;
};

class Block {
 public:
  // Registers its parameters. site.path: "model.layers.0".
  Block(const BlockSpec& spec, const nn::PartSite& site);

  BlockOut forward(Context& ctx, const nn::MixerCall& call, const Tensor& x) const;
  nn::CacheShape cache_shape() const { return mixer_->cache_shape(); }
  std::vector<nn::Linear*> linears();  // in model order
  int unit() const { return unit_; }

 private:
  int unit_ = 0;
  double eps_ = 1e-6;
  ParamId mixer_norm_ = kNoParam, mlp_norm_ = kNoParam;
  std::unique_ptr<nn::Mixer> mixer_;
  std::unique_ptr<nn::Mlp> mlp_;
};

}  // namespace hone::models
