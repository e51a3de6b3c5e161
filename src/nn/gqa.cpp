#include "nn/gqa.h"

#include <cmath>

namespace hone::nn {

Gqa::Gqa(const GqaSpec& spec, const PartSite& site) : spec_(spec) {
  const int64_t q_width = spec.heads * spec.head_dim, k_width = spec.key_heads * spec.head_dim;
  q_heads_ = ops::dense_heads(0, spec.heads, spec.head_dim);
  k_heads_ = ops::dense_heads(q_width, spec.key_heads, spec.head_dim);
  v_heads_ = ops::dense_heads(q_width + k_width, spec.key_heads, spec.head_dim);
  const auto projection = [&](const char* name, int64_t out, const char* label) {
    return add_linear(site.store, {.path = site.path + "." + name,
                                   .in = spec.hidden,
                                   .out = out,
                                   .bias = spec.qkv_bias,
                                   .unit = site.unit,
                                   .format = site.format,
                                   .placement = Placement::column,
                                   .label = label});
  };
  q_ = projection("q_proj", q_width, "attn.q");
  k_ = projection("k_proj", k_width, "attn.k");
  v_ = projection("v_proj", k_width, "attn.v");
  if (spec.head_norm) {
    const auto norm = [&](const char* name) {
      return add_vector(site.store, site.path + "." + name + ".weight", spec.head_dim, site.unit,
                        site.format);
    };
    q_norm_ = norm("q_norm");
    k_norm_ = norm("k_norm");
  }
  o_ = add_linear(site.store, {.path = site.path + ".o_proj",
                               .in = q_width,
                               .out = spec.hidden,
                               .bias = spec.out_bias,
                               .unit = site.unit,
                               .format = site.format,
                               .placement = Placement::row,
                               .label = "attn.o"});
}

CacheShape Gqa::cache_shape() const {
  return {.heads = spec_.key_heads, .key_dim = spec_.head_dim, .value_dim = spec_.head_dim};
}

Tensor Gqa::attend(Context& ctx, const MixerCall& call, const Tensor& qkv) const {
  const StreamInputs& in = call.stream;
  const double scale = 1.0 / std::sqrt(static_cast<double>(spec_.head_dim));
  const ops::Heads q{qkv, q_heads_};
  if (in.cache == nullptr)
    return ops::attention(ctx, in.plan, q, {qkv, k_heads_}, {qkv, v_heads_}, scale);
  const Tensor &k = in.cache->k[call.layer], &v = in.cache->v[call.layer];
  store_in_cache(ctx, in, k_heads_.of(qkv), k);
  store_in_cache(ctx, in, v_heads_.of(qkv), v);
  return ops::attention(ctx, in.plan, q, k, v, scale);
}

Tensor Gqa::forward(Context& ctx, const MixerCall& call, Tensor normed, const Tensor& x) const {
  const StreamInputs& in = call.stream;
  const ops::LinearParams parts[] = {q_.params, k_.params, v_.params};
  Tensor qkv = ops::linear(ctx, parts, normed, {}, in.row_ids);
  normed = Tensor();
  if (spec_.head_norm) {
    const ops::HeadNorm norms[] = {{q_heads_, q_norm_}, {k_heads_, k_norm_}};
    qkv = ops::head_norm(ctx, norms, spec_.eps, qkv);
  }
  // q and k are neighbours: one range
  const ops::HeadRange rotated[] = {
      ops::dense_heads(0, spec_.heads + spec_.key_heads, spec_.head_dim)};
  qkv = ops::rope(ctx, rotated, in.ropes[spec_.rope], std::move(qkv));
  Tensor a = attend(ctx, call, qkv);
  qkv = Tensor();
  return project(ctx, call, o_, std::move(a), x);
}

}  // namespace hone::nn
