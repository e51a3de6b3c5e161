// A packed stream as a model takes it: device copies, attention plan, rotary table.
#pragma once

#include <span>
#include <vector>

#include "backend/desc/key_blocks.h"
#include "exec/context.h"
#include "exec/stream.h"
#include "models/config.h"
#include "nn/inputs.h"

namespace hone::models {

using nn::KvCache;
using nn::StreamInputs;

// Where a sequence's 64 keys of one block lie: the first `split` of them on `page`, the others in
// their places on `after` (sequences with a common prefix share what holds it).
struct CacheBlock {
  int32_t page = -1;
  int32_t split = kKeyBlock;
  int32_t after = -1;
  int32_t page_of(int32_t position) const { return position % kKeyBlock < split ? page : after; }
};

// The plan of a stream whose segments attend to themselves only. wanted: distinct rows, at least
// one; none: all.
StreamInputs make_inputs(Context& ctx, const ModelConfig& config, const Stream& stream,
                         std::span<const int32_t> wanted = {});

// The plan of a stream whose segments continue sequences held in a cache: segment i's keys lie in
// blocks[i], in order, and include the stream's own tokens (pos0 + len keys). Keys before pos0 may
// be those of another segment of this stream.
StreamInputs make_cached_inputs(Context& ctx, const ModelConfig& config, const Stream& stream,
                                std::span<const std::span<const CacheBlock>> blocks, KvCache& cache,
                                std::span<const int32_t> wanted);

// 1 / theta^(2i/d) in fp32 as transformers computes it, with its scaling.
std::vector<float> rope_inv_freq(const RopeSpec& rope);

}  // namespace hone::models
