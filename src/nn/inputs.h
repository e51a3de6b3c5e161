// What the parts of a block take of a packed stream beside its hidden states.
#pragma once

#include <vector>

#include "backend/desc/key_blocks.h"
#include "exec/context.h"
#include "ops/attention.h"

namespace hone::nn {

// What a mixer keeps of a token: keys and values of `heads` heads.
struct CacheShape {
  int64_t heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
};

// Keys and values of running sequences, in pages of 64 positions. A page holds one head after the
// other, so that what attention reads for a head lies together.
struct KvCache {
  std::vector<Tensor> k, v;  // a layer: [pages * heads * 64, dim] as Tensor::paged(heads, 64)
  int64_t heads = 0;         // of every layer
  int32_t row(int32_t page, int32_t position) const {
    return page * static_cast<int32_t>(heads * kKeyBlock) + position % kKeyBlock;
  }
};

struct StreamInputs {
  Tensor tokens;              // [T] i32
  std::vector<Tensor> ropes;  // of each kind of rotary embedding the model has: [T, dim] f32
  Tensor row_ids;             // [T] i64, identities of (sample, step, position) for dropout
  Tensor wanted;              // [R] i32: rows whose hidden states are wanted; undefined: all
  Tensor wanted_ids;          // [R] i64: their row_ids
  ops::AttentionPlan plan;
  Tensor cache_rows;  // [T] i32: row of the cache each token's key and value go to; undefined
                      // without a cache
  KvCache* cache = nullptr;
  StreamInputs() = default;
  StreamInputs(const StreamInputs&) = delete;  // the tape points to the plan
  StreamInputs& operator=(const StreamInputs&) = delete;
  StreamInputs(StreamInputs&&) = default;
  StreamInputs& operator=(StreamInputs&&) = default;
};

// Writes keys or values [T, heads, dim] of the stream's tokens to their rows of a cache.
void store_in_cache(Context& ctx, const StreamInputs& in, const View& heads, const Tensor& cache);

}  // namespace hone::nn
