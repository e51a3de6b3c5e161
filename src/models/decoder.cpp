#include "models/decoder.h"

#include <string>

namespace hone::models {

Decoder::Decoder(const ModelConfig& c, ParamStore& store, Format format) : config_(c) {
  layout_ = {
      .heads = c.num_attention_heads, .key_heads = c.num_key_value_heads, .head_dim = c.head_dim};
  embed_ = store.add({.name = "model.embed_tokens.weight",
                      .shape = {c.vocab_size, c.hidden_size},
                      .format = format,
                      .placement = Placement::vocab,
                      .unit = 0});
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const int unit = static_cast<int>(i) + 1;
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const auto linear = [&](const char* name, int64_t in, int64_t out, bool bias,
                            Placement placement, const char* label) {
      return nn::add_linear(store, {.path = prefix + name,
                                    .in = in,
                                    .out = out,
                                    .bias = bias,
                                    .unit = unit,
                                    .format = format,
                                    .placement = placement,
                                    .label = label});
    };
    const auto vector = [&](const char* name, int64_t n) {
      return nn::add_vector(store, prefix + name + ".weight", n, unit, format);
    };
    Block b;
    b.input_norm = vector("input_layernorm", c.hidden_size);
    b.q = linear("self_attn.q_proj", c.hidden_size, layout_.q_width(), c.qkv_bias,
                 Placement::column, "attn.q");
    b.k = linear("self_attn.k_proj", c.hidden_size, layout_.k_width(), c.qkv_bias,
                 Placement::column, "attn.k");
    b.v = linear("self_attn.v_proj", c.hidden_size, layout_.k_width(), c.qkv_bias,
                 Placement::column, "attn.v");
    if (c.qk_norm) {
      b.q_norm = vector("self_attn.q_norm", c.head_dim);
      b.k_norm = vector("self_attn.k_norm", c.head_dim);
    }
    b.o = linear("self_attn.o_proj", layout_.q_width(), c.hidden_size, c.attention_out_bias,
                 Placement::row, "attn.o");
    b.post_norm = vector("post_attention_layernorm", c.hidden_size);
    b.gate = linear("mlp.gate_proj", c.hidden_size, c.intermediate_size, c.mlp_bias,
                    Placement::column, "mlp.gate");
    b.up = linear("mlp.up_proj", c.hidden_size, c.intermediate_size, c.mlp_bias, Placement::column,
                  "mlp.up");
    b.down = linear("mlp.down_proj", c.intermediate_size, c.hidden_size, c.mlp_bias, Placement::row,
                    "mlp.down");
    blocks_.push_back(std::move(b));
  }
  const int last = static_cast<int>(c.num_hidden_layers) + 1;
  norm_ = nn::add_vector(store, "model.norm.weight", c.hidden_size, last, format);
  head_ = c.tie_word_embeddings ? embed_
                                : store.add({.name = "lm_head.weight",
                                             .shape = {c.vocab_size, c.hidden_size},
                                             .format = format,
                                             .placement = Placement::vocab,
                                             .unit = last});
}

std::vector<nn::Linear*> Decoder::linears() {
  std::vector<nn::Linear*> all;
  for (Block& b : blocks_) {
    for (nn::Linear* l : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) all.push_back(l);
  }
  return all;
}

Tensor Decoder::block(Context& ctx, const Block& b, int layer, const StreamInputs& in,
                      const Tensor& x) const {
  const double eps = config_.rms_norm_eps;
  const ops::LinearParams qkv_parts[] = {b.q.params, b.k.params, b.v.params};
  Tensor qkv;
  {
    const Tensor n = ops::rms_norm(ctx, b.input_norm, eps, x, "norm1");
    qkv = ops::linear(ctx, qkv_parts, n, {}, in.row_ids);
  }
  if (config_.qk_norm) qkv = ops::qk_norm(ctx, layout_, b.q_norm, b.k_norm, eps, qkv);
  qkv = ops::rope(ctx, layout_, in.rope, qkv);
  Tensor a;
  if (in.cache != nullptr) {
    const Tensor& k = in.cache->k[static_cast<size_t>(layer)];
    const Tensor& v = in.cache->v[static_cast<size_t>(layer)];
    const int64_t kw = layout_.k_width();
    const auto store = [&](const Tensor& cache, int64_t begin) {
      launch(ctx,
             ScatterRowsDesc{.y = qkv.columns(begin, kw).heads(layout_.head_dim).view(),
                             .rows = in.cache_rows.view(),
                             .x = cache.view()},
             "kv_cache");
    };
    store(k, layout_.q_width());
    store(v, layout_.q_width() + kw);
    a = ops::attention(ctx, layout_, in.plan, qkv, k, v);
  } else {
    a = ops::attention(ctx, layout_, in.plan, qkv);
  }
  qkv = Tensor();
  const bool some = in.wanted.defined() && layer + 1 == config_.num_hidden_layers;
  const Tensor& row_ids = some ? in.wanted_ids : in.row_ids;
  if (some) a = ops::gather_rows(ctx, a, in.wanted);
  const Tensor x1 = ops::linear(ctx, {&b.o.params, 1}, a,
                                some ? ops::gather_rows(ctx, x, in.wanted) : x, row_ids);
  a = Tensor();
  const ops::LinearParams gate_up_parts[] = {b.gate.params, b.up.params};
  Tensor h;
  {
    const Tensor n = ops::rms_norm(ctx, b.post_norm, eps, x1, "norm2");
    const Tensor gate_up = ops::linear(ctx, gate_up_parts, n, {}, row_ids);
    h = ops::swiglu(ctx, gate_up);
  }
  return ops::linear(ctx, {&b.down.params, 1}, h, x1, row_ids, /*last=*/true);
}

Tensor Decoder::forward(Context& ctx, const StreamInputs& inputs) const {
  Tensor x = ops::embedding(ctx, embed_, inputs.tokens);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    x = run_block(ctx, static_cast<int>(i) + 1, x,
                  [this, i, in = &inputs](Context& c, const Tensor& x) {
                    return block(c, blocks_[i], static_cast<int>(i), *in, x);
                  });
  }
  return ops::rms_norm(ctx, norm_, config_.rms_norm_eps, x, "norm");
}

KvCache make_cache(Context& ctx, const ModelConfig& c, int64_t pages) {
  KvCache cache;
  cache.heads = c.num_key_value_heads;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    for (std::vector<Tensor>* side : {&cache.k, &cache.v}) {
      side->push_back(ctx.empty(ctx.dtype, {pages * cache.heads * kKeyBlock, c.head_dim})
                          .paged(cache.heads, kKeyBlock));
    }
  }
  return cache;
}

}  // namespace hone::models
