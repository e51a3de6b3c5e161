// A decoder-only transformer: embedding, a list of blocks, a norm and the head.
#pragma once

#include <vector>

#include "models/block.h"
#include "models/config.h"
#include "models/inputs.h"

namespace hone::models {

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

  // An empty cache of `pages` pages of 64 keys (contents undefined: attention reads only what was
  // written).
  KvCache make_cache(Context& ctx, int64_t pages) const;

 private:
  ModelConfig config_;
  ParamId embed_ = kNoParam, norm_ = kNoParam, head_ = kNoParam;
  std::vector<Block> blocks_;
};

}  // namespace hone::models
