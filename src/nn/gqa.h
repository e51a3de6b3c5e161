// Grouped-query attention (Ainslie et al., 2023) with rotary embeddings.
#pragma once

#include "nn/part.h"

namespace hone::nn {

struct GqaSpec {
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t key_heads = 0;
  int64_t head_dim = 0;
  bool qkv_bias = false;
  bool out_bias = false;
  bool head_norm = false;  // RMSNorm over head_dim on q and k, before RoPE (Qwen3)
  double eps = 1e-6;       // its
  size_t rope = 0;         // which of the stream's
};

class Gqa final : public Mixer {
 public:
  Gqa(const GqaSpec& spec, const PartSite& site);
  Tensor forward(Context& ctx, const MixerCall& call, Tensor normed,
                 const Tensor& x) const override;
  CacheShape cache_shape() const override;
  std::vector<Linear*> linears() override { return {&q_, &k_, &v_, &o_}; }

 private:
  Tensor attend(Context& ctx, const MixerCall& call, const Tensor& qkv) const;

  GqaSpec spec_;
  ops::HeadRange q_heads_, k_heads_, v_heads_;  // of [q | k | v]
  Linear q_, k_, v_, o_;
  ParamId q_norm_ = kNoParam, k_norm_ = kNoParam;
};

}  // namespace hone::nn
