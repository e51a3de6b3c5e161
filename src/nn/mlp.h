// The gated MLP: down(silu(gate x) * up x) (SwiGLU, Shazeer 2020).
#pragma once

#include "nn/part.h"

namespace hone::nn {

struct GatedMlpSpec {
  int64_t hidden = 0;
  int64_t intermediate = 0;
  bool bias = false;
};

class GatedMlp final : public Mlp {
 public:
  GatedMlp(const GatedMlpSpec& spec, const PartSite& site);
  BlockOut forward(Context& ctx, Tensor normed, const Tensor& x,
                   const Tensor& row_ids) const override;
  // The same for a part of an MLP: add is x or undefined, last as of ops::linear.
  Tensor apply(Context& ctx, Tensor normed, const Tensor& add, const Tensor& row_ids,
               bool last) const;
  std::vector<Linear*> linears() override { return {&gate_, &up_, &down_}; }

 private:
  Linear gate_, up_, down_;
};

}  // namespace hone::nn
