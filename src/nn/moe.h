// A mixture of experts (Shazeer et al., 2017): gated MLPs of which a router chooses some for each
// token; their weighted sum, with what every token gets from a shared one.
#pragma once

#include "nn/mlp.h"
#include "ops/experts.h"

namespace hone::nn {

struct MoeSpec {
  int64_t hidden = 0;
  int64_t intermediate = 0;  // of an expert
  int64_t experts = 0;
  int64_t experts_per_token = 0;
  RouteRule rule;
  bool wide_weights = false;  // the router's weights stay fp32
  // Of an expert that every token takes, scaled by sigmoid(gate x); 0: there is none.
  int64_t shared_intermediate = 0;
  // Names in the folder where they differ from the module's: "block_sparse_moe", "w1" ...
  const char* module = "mlp";
  const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";
};

class Moe final : public Mlp {
 public:
  Moe(const MoeSpec& spec, const PartSite& site);
  BlockOut forward(Context& ctx, Tensor normed, const Tensor& x,
                   const Tensor& row_ids) const override;
  std::vector<Linear*> linears() override;

 private:
  struct Shared {
    GatedMlp mlp;
    Linear gate;
  };
  Tensor shared(Context& ctx, const Tensor& normed, const Tensor& x, const Tensor& row_ids) const;

  MoeSpec spec_;
  Linear router_, gate_up_, down_;
  std::optional<Shared> shared_;
};

}  // namespace hone::nn
