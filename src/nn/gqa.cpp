#include "nn/gqa.h"

namespace hone::nn {

Gqa::Gqa(const GqaSpec& spec, const PartSite& site) : spec_(spec) {
  layout_ = {.heads = spec.heads, .key_heads = spec.key_heads, .head_dim = spec.head_dim};
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
  q_ = projection("q_proj", layout_.q_width(), "attn.q");
  k_ = projection("k_proj", layout_.k_width(), "attn.k");
  v_ = projection("v_proj", layout_.k_width(), "attn.v");
  if (spec.head_norm) {
    const auto norm = [&](const char* name) {
      return add_vector(site.store, site.path + "." + name + ".weight", spec.head_dim, site.unit,
                        site.format);
    };
    q_norm_ = norm("q_norm");
    k_norm_ = norm("k_norm");
  }
  o_ = add_linear(site.store, {.path = site.path + ".o_proj",
                               .in = layout_.q_width(),
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
  if (in.cache == nullptr) return ops::attention(ctx, layout_, in.plan, qkv);
  const Tensor &k = in.cache->k[call.layer], &v = in.cache->v[call.layer];
  const auto store = [&](const Tensor& cache, int64_t begin) {
    launch(
        ctx,
        ScatterRowsDesc{.y = qkv.columns(begin, layout_.k_width()).heads(layout_.head_dim).view(),
                        .rows = in.cache_rows.view(),
                        .x = cache.view()},
        "kv_cache");
  };
  store(k, layout_.q_width());
  store(v, layout_.q_width() + layout_.k_width());
  return ops::attention(ctx, layout_, in.plan, qkv, k, v);
}

Tensor Gqa::forward(Context& ctx, const MixerCall& call, Tensor normed, const Tensor& x) const {
  const StreamInputs& in = call.stream;
  const ops::LinearParams parts[] = {q_.params, k_.params, v_.params};
  Tensor qkv = ops::linear(ctx, parts, normed, {}, in.row_ids);
  normed = Tensor();
  if (spec_.head_norm) qkv = ops::qk_norm(ctx, layout_, q_norm_, k_norm_, spec_.eps, qkv);
  qkv = ops::rope(ctx, layout_, in.ropes[spec_.rope], qkv);
  Tensor a = attend(ctx, call, qkv);
  qkv = Tensor();
  if (!call.some) return ops::linear(ctx, {&o_.params, 1}, a, x, in.row_ids);
  a = ops::gather_rows(ctx, a, in.wanted);
  return ops::linear(ctx, {&o_.params, 1}, a, ops::gather_rows(ctx, x, in.wanted), in.wanted_ids);
}

}  // namespace hone::nn
