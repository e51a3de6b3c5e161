// A packed stream as a model takes it: device copies, attention plan, rotary table.
#pragma once

#include <span>
#include <vector>

#include "exec/context.h"
#include "exec/stream.h"
#include "models/config.h"
#include "ops/block.h"

namespace hone::models {

// Keys and values of running sequences, in pages of 64 positions. A page holds one head after the
// other, so that what attention reads for a head lies together.
struct KvCache {
  std::vector<Tensor> k, v;  // a layer: [pages * K * 64, D] as Tensor::paged(K, 64)
  int64_t heads = 0;         // K
  int32_t row(int32_t page, int32_t position) const {
    return page * static_cast<int32_t>(heads * kKeyBlock) + position % kKeyBlock;
  }
};

// Where a sequence's 64 keys of one block lie: the first `split` of them on `page`, the others in
// their places on `after` (sequences with a common prefix share what holds it).
struct CacheBlock {
  int32_t page = -1;
  int32_t split = kKeyBlock;
  int32_t after = -1;
  int32_t page_of(int32_t position) const { return position % kKeyBlock < split ? page : after; }
};

struct StreamInputs {
  Tensor tokens;      // [T] i32
  Tensor rope;        // [T, head_dim] f32
  Tensor row_ids;     // [T] i64, identities of (sample, step, position) for dropout
  Tensor wanted;      // [R] i32: rows whose hidden states are wanted; undefined: all
  Tensor wanted_ids;  // [R] i64: their row_ids
  ops::AttentionPlan plan;
  Tensor cache_rows;  // [T] i32: row of the cache each token's key and value go to; undefined
                      // without a cache
  KvCache* cache = nullptr;
  StreamInputs() = default;
  StreamInputs(const StreamInputs&) = delete;  // the plan is pointed to
  StreamInputs& operator=(const StreamInputs&) = delete;
  StreamInputs(StreamInputs&&) = default;
  StreamInputs& operator=(StreamInputs&&) = default;
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

// 1 / theta^(2i/d) in fp32 as transformers computes it, with the config's scaling.
std::vector<float> rope_inv_freq(const ModelConfig& config);

}  // namespace hone::models
