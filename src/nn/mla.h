// Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2"): keys and values come of a latent
// vector of low rank, and one small rotated key is shared by all heads. Keys and values are
// expanded before attention, and so they are cached.
#pragma once

#include "nn/part.h"

namespace hone::nn {

struct MlaSpec {
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t query_rank = 0;  // of the queries' latent; 0: queries are projected directly
  int64_t kv_rank = 0;     // of keys' and values'
  int64_t nope_dim = 0;    // of a query's and key's head: what is not rotated,
  int64_t rope_dim = 0;    // and what is, behind it
  int64_t value_dim = 0;
  bool bias = false;        // of q_a_proj, kv_a_proj_with_mqa, o_proj
  bool interleaved = true;  // pairs of what is rotated lie side by side
  double score_scale = 1;   // beside 1 / sqrt(nope_dim + rope_dim): YaRN's mscale squared
  double eps = 1e-6;        // of the latent norms: the class's default, whatever the model's
  size_t rope = 0;          // which of the stream's, of rope_dim
};

class Mla final : public Mixer {
 public:
  Mla(const MlaSpec& spec, const PartSite& site);
  Tensor forward(Context& ctx, const MixerCall& call, Tensor normed,
                 const Tensor& x) const override;
  CacheShape cache_shape() const override;
  std::vector<Linear*> linears() override;

 private:
  Tensor attend(Context& ctx, const MixerCall& call, const ops::Heads& q, const Tensor& keys,
                const Tensor& kv) const;

  MlaSpec spec_;
  Linear q_, q_a_, q_b_, kv_a_, kv_b_, o_;  // q_, or q_a_ and q_b_
  ParamId q_norm_ = kNoParam, kv_norm_ = kNoParam;
  // In the rows of the first product, [queries or their latent | keys' and values' latent | the
  // shared key]:
  ops::HeadRange latent_, shared_key_;
  ops::HeadRange queries_;            // in the rows of q_proj or q_b_proj
  ops::HeadRange own_keys_, values_;  // in the rows of kv_b_proj
};

}  // namespace hone::nn
