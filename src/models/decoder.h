// A dense decoder-only transformer (Llama, Mistral, Qwen2, Qwen3): what differs between them is in
// ModelConfig.
#pragma once

#include <vector>

#include "models/config.h"
#include "models/inputs.h"
#include "nn/layers.h"

namespace hone::models {

struct Block {
  ParamId input_norm = kNoParam;
  ParamId post_norm = kNoParam;
  ParamId q_norm = kNoParam, k_norm = kNoParam;
  nn::Linear q, k, v, o;
  nn::Linear gate, up, down;
};

class Decoder {
 public:
  // Registers every parameter with the store, in the given format, without a value. Units: 0
  // embedding, 1..L blocks, L + 1 final norm and head.
  Decoder(const ModelConfig& config, ParamStore& store, Format format);

  const ModelConfig& config() const { return config_; }
  // Every linear of the blocks, in model order (what LoRA's "all-linear" means).
  std::vector<nn::Linear*> linears();
  ParamId head_weight() const { return head_; }
  ParamId embedding() const { return embed_; }

  // Hidden states behind the final norm, ready for the head, of the rows that inputs wants: [R, D],
  // in their order. The last block computes no others' behind its attention. inputs must outlive
  // the tape.
  Tensor forward(Context& ctx, const StreamInputs& inputs) const;

 private:
  Tensor block(Context& ctx, const Block& b, int layer, const StreamInputs& in,
               const Tensor& x) const;

  ModelConfig config_;
  ops::HeadLayout layout_;
  ParamId embed_ = kNoParam, norm_ = kNoParam, head_ = kNoParam;
  std::vector<Block> blocks_;
};

// An empty cache of `pages` pages of 64 keys (contents undefined: attention reads only what was
// written).
KvCache make_cache(Context& ctx, const ModelConfig& config, int64_t pages);

}  // namespace hone::models
