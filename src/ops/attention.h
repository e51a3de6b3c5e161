// Heads, and attention over them. Legend: T rows, W columns of a row, H query heads, K key heads, D
// head dim of queries and keys, E of values.
#pragma once

#include <span>
#include <vector>

#include "backend/desc/key_blocks.h"
#include "exec/context.h"

namespace hone::ops {

// Where heads lie in the rows of a [T, W] tensor: head h is columns [begin + h * stride, + dim).
struct HeadRange {
  int64_t begin = 0;
  int64_t heads = 0;
  int64_t stride = 0;
  int64_t dim = 0;
  // The range [T, heads, dim] of a tensor's rows.
  View of(const Tensor& rows) const;
};
// Heads side by side.
inline HeadRange dense_heads(int64_t begin, int64_t heads, int64_t dim) {
  return {.begin = begin, .heads = heads, .stride = dim, .dim = dim};
}

// Heads of a tensor's rows. Gradients go to the same columns of the tensor's gradient; who comes
// first writes zeros to the others.
struct Heads {
  Tensor rows;
  HeadRange range;
};

// RMSNorm of every head, with one weight [dim]: [T, heads * dim].
Tensor rms_norm(Context& ctx, ParamId weight, double eps, const Heads& x, const char* label);

// RMSNorm of every head of the ranges (dense, apart from each other), with a weight [dim] for each
// range; other columns are passed through. Returns a new [T, W].
struct HeadNorm {
  HeadRange heads;
  ParamId weight = kNoParam;
};
Tensor head_norm(Context& ctx, std::span<const HeadNorm> norms, double eps, const Tensor& x);

// Rotates the ranges' heads by the table [T, dim] (RopeTableDesc), whose dim is theirs: in x's own
// memory if the caller gives away its last handle, else in a copy. interleaved: pairs are
// neighbours instead of halves.
Tensor rope(Context& ctx, std::span<const HeadRange> ranges, const Tensor& table, Tensor x,
            bool interleaved = false);

// [T, H * (D + E)]: head h is head h of a, of size D, then head h of b, of size E, or b's only one.
Tensor join_heads(Context& ctx, const Heads& a, const Heads& b);

// Segments of a stream and where their keys lie.
struct AttentionPlan {
  std::vector<KeyBlock> blocks;  // of all segments
  std::vector<AttentionSegment> segments;
};

// Causal attention: softmax(scale * q kᵀ) v of the stream's own rows. q: H heads of D, k: K of D,
// v: K of E; they may lie in one tensor. Returns [T, H * E]. The plan outlives the tape.
Tensor attention(Context& ctx, const AttentionPlan& plan, const Heads& q, const Heads& k,
                 const Heads& v, double scale);

// The same over the rows of caches [S, K, D] and [S, K, E]; inference only.
Tensor attention(Context& ctx, const AttentionPlan& plan, const Heads& q, const Tensor& k_cache,
                 const Tensor& v_cache, double scale);

}  // namespace hone::ops
