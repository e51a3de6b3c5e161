#include "nn/mla.h"

#include <cmath>
#include <utility>

namespace hone::nn {
namespace {

// The last n columns of each head.
ops::HeadRange tail(ops::HeadRange heads, int64_t n) {
  heads.begin += heads.dim - n;
  heads.dim = n;
  return heads;
}

}  // namespace

Mla::Mla(const MlaSpec& spec, const PartSite& site) : spec_(spec) {
  const int64_t key_dim = spec.nope_dim + spec.rope_dim, kv_dim = spec.nope_dim + spec.value_dim;
  struct Projection {
    const char* name;
    int64_t in, out;
    bool bias;
    Placement placement;
    const char* label;
  };
  const auto add = [&](const Projection& p) {
    return add_linear(site.store, {.path = site.path + "." + p.name,
                                   .in = p.in,
                                   .out = p.out,
                                   .bias = p.bias,
                                   .unit = site.unit,
                                   .format = site.format,
                                   .placement = p.placement,
                                   .label = p.label});
  };
  const auto norm = [&](const char* name, int64_t n) {
    return add_vector(site.store, site.path + "." + name + ".weight", n, site.unit, site.format);
  };
  const int64_t q_width = spec.heads * key_dim;
  if (spec.query_rank == 0) {
    q_ = add({"q_proj", spec.hidden, q_width, false, Placement::column, "attn.q"});
  } else {
    q_a_ = add(
        {"q_a_proj", spec.hidden, spec.query_rank, spec.bias, Placement::replicate, "attn.q_a"});
    q_norm_ = norm("q_a_layernorm", spec.query_rank);
    q_b_ = add({"q_b_proj", spec.query_rank, q_width, false, Placement::column, "attn.q_b"});
  }
  kv_a_ = add({"kv_a_proj_with_mqa", spec.hidden, spec.kv_rank + spec.rope_dim, spec.bias,
               Placement::replicate, "attn.kv_a"});
  kv_norm_ = norm("kv_a_layernorm", spec.kv_rank);
  kv_b_ =
      add({"kv_b_proj", spec.kv_rank, spec.heads * kv_dim, false, Placement::column, "attn.kv_b"});
  o_ = add(
      {"o_proj", spec.heads * spec.value_dim, spec.hidden, spec.bias, Placement::row, "attn.o"});

  queries_ = ops::dense_heads(0, spec.heads, key_dim);
  const int64_t before = spec.query_rank == 0 ? q_width : spec.query_rank;
  latent_ = ops::dense_heads(before, 1, spec.kv_rank);
  shared_key_ = ops::dense_heads(before + spec.kv_rank, 1, spec.rope_dim);
  own_keys_ = {.begin = 0, .heads = spec.heads, .stride = kv_dim, .dim = spec.nope_dim};
  values_ = {.begin = spec.nope_dim, .heads = spec.heads, .stride = kv_dim, .dim = spec.value_dim};
}

CacheShape Mla::cache_shape() const {
  return {.heads = spec_.heads,
          .key_dim = spec_.nope_dim + spec_.rope_dim,
          .value_dim = spec_.value_dim};
}

std::vector<Linear*> Mla::linears() {
  if (spec_.query_rank == 0) return {&q_, &kv_a_, &kv_b_, &o_};
  return {&q_a_, &q_b_, &kv_a_, &kv_b_, &o_};
}

Tensor Mla::attend(Context& ctx, const MixerCall& call, const ops::Heads& q, const Tensor& keys,
                   const Tensor& kv) const {
  const StreamInputs& in = call.stream;
  const double scale = spec_.score_scale / std::sqrt(static_cast<double>(queries_.dim));
  if (in.cache == nullptr)
    return ops::attention(ctx, in.plan, q, {keys, queries_}, {kv, values_}, scale);
  const Tensor &k = in.cache->k[call.layer], &v = in.cache->v[call.layer];
  store_in_cache(ctx, in, queries_.of(keys), k);  // laid out as the queries are
  store_in_cache(ctx, in, values_.of(kv), v);
  return ops::attention(ctx, in.plan, q, k, v, scale);
}

Tensor Mla::forward(Context& ctx, const MixerCall& call, Tensor normed, const Tensor& x) const {
  const StreamInputs& in = call.stream;
  const Tensor& table = in.ropes[spec_.rope];
  const ops::HeadRange rotated = tail(queries_, spec_.rope_dim);
  const bool direct = spec_.query_rank == 0;
  const ops::LinearParams first[] = {direct ? q_.params : q_a_.params, kv_a_.params};
  Tensor a = ops::linear(ctx, first, normed, {}, in.row_ids);
  normed = Tensor();
  Tensor q;
  if (direct) {
    const ops::HeadRange both[] = {rotated, shared_key_};
    q = a = ops::rope(ctx, both, table, std::move(a), spec_.interleaved);
  } else {
    a = ops::rope(ctx, {&shared_key_, 1}, table, std::move(a), spec_.interleaved);
    const ops::Heads latent{a, ops::dense_heads(0, 1, spec_.query_rank)};
    const Tensor n = ops::rms_norm(ctx, q_norm_, spec_.eps, latent, "q_norm");
    q = ops::linear(ctx, {&q_b_.params, 1}, n, {}, in.row_ids);
    q = ops::rope(ctx, {&rotated, 1}, table, std::move(q), spec_.interleaved);
  }
  Tensor kv;
  {
    const Tensor n = ops::rms_norm(ctx, kv_norm_, spec_.eps, ops::Heads{a, latent_}, "kv_norm");
    kv = ops::linear(ctx, {&kv_b_.params, 1}, n, {}, in.row_ids);
  }
  Tensor keys = ops::join_heads(ctx, {kv, own_keys_}, {a, shared_key_});
  a = Tensor();
  Tensor mixed = attend(ctx, call, {q, queries_}, keys, kv);
  q = keys = kv = Tensor();
  return project(ctx, call, o_, std::move(mixed), x);
}

}  // namespace hone::nn
