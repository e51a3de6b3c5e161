#include "models/decoder.h"

#include <string>

#include "backend/desc/key_blocks.h"
#include "models/family.h"

namespace hone::models {

Decoder::Decoder(const ModelConfig& c, ParamStore& store, Format format) : config_(c) {
  const auto vocab = [&](const char* name, int unit) {
    return store.add({.name = name,
                      .shape = {c.vocab_size, c.hidden_size},
                      .format = format,
                      .placement = Placement::vocab,
                      .unit = unit});
  };
  embed_ = vocab("model.embed_tokens.weight", 0);
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    blocks_.emplace_back(c.family->block(c, layer),
                         nn::PartSite{.store = store,
                                      .path = "model.layers." + std::to_string(layer),
                                      .unit = static_cast<int>(layer) + 1,
                                      .format = format});
  }
  const int last = static_cast<int>(c.num_hidden_layers) + 1;
  norm_ = nn::add_vector(store, "model.norm.weight", c.hidden_size, last, format);
  head_ = c.tie_word_embeddings ? embed_ : vocab("lm_head.weight", last);
}

std::vector<nn::Linear*> Decoder::linears() {
  std::vector<nn::Linear*> all;
  for (Block& b : blocks_) {
    for (nn::Linear* l : b.linears()) all.push_back(l);
  }
  return all;
}

Tensor Decoder::forward(Context& ctx, const StreamInputs& inputs) const {
  Tensor x = ops::embedding(ctx, embed_, inputs.tokens);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const bool some = inputs.wanted.defined() && i + 1 == blocks_.size();
    x = run_block(ctx, blocks_[i].unit(), x,
                  [block = &blocks_[i], i, some, in = &inputs](Context& c, const Tensor& x) {
                    return block->forward(c, {.stream = *in, .layer = i, .some = some}, x);
                  })
            .x;
  }
  return ops::rms_norm(ctx, norm_, config_.rms_norm_eps, x, "norm");
}

KvCache Decoder::make_cache(Context& ctx, int64_t pages) const {
  KvCache cache;
  cache.heads = blocks_.front().cache_shape().heads;
  const auto side = [&](int64_t dim) {
    return ctx.empty(ctx.dtype, {pages * cache.heads * kKeyBlock, dim})
        .paged(cache.heads, kKeyBlock);
  };
  for (const Block& b : blocks_) {
    const nn::CacheShape shape = b.cache_shape();
    HONE_CHECK(shape.heads == cache.heads, "rows of the cache are the same in every layer");
    cache.k.push_back(side(shape.key_dim));
    cache.v.push_back(side(shape.value_dim));
  }
  return cache;
}

}  // namespace hone::models
