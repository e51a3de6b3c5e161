// The other pieces of a decoder block. Legend: T rows, H query heads, K key heads, D head dim, F
// intermediate size.
#pragma once

#include <vector>

#include "exec/context.h"

namespace hone::ops {

// y[T, D] = table[tokens], in ctx.dtype; differentiable if the table is trained.
Tensor embedding(Context& ctx, ParamId table, const Tensor& tokens);

// RMSNorm over the last dim of x [T, D].
Tensor rms_norm(Context& ctx, ParamId weight, double eps, const Tensor& x, const char* label);

// Heads side by side in one row: [q (H*D) | k (K*D) | v (K*D)].
struct HeadLayout {
  int64_t heads = 0;
  int64_t key_heads = 0;
  int64_t head_dim = 0;
  int64_t q_width() const { return heads * head_dim; }
  int64_t k_width() const { return key_heads * head_dim; }
  int64_t width() const { return q_width() + 2 * k_width(); }
};

// RMSNorm of every q and k head (Qwen3); v is passed through. Returns a new [T, width].
Tensor qk_norm(Context& ctx, const HeadLayout& layout, ParamId q_weight, ParamId k_weight,
               double eps, const Tensor& qkv);

// Rotates the q and k heads in place; table [T, D] as of RopeTableDesc.
Tensor rope(Context& ctx, const HeadLayout& layout, const Tensor& table, const Tensor& qkv);

// Segments of a stream and where their keys lie.
struct AttentionPlan {
  std::vector<KeyBlock> blocks;
  std::vector<AttentionSegment> segments;  // point into blocks: don't resize it any more
};

// Causal attention of the stream's q on keys and values: the stream's own rows of qkv where k_cache
// is undefined, else the rows of the caches [S, K, D] (inference only). Returns [T, H*D].
Tensor attention(Context& ctx, const HeadLayout& layout, const AttentionPlan& plan,
                 const Tensor& qkv, const Tensor& k_cache = {}, const Tensor& v_cache = {});

// silu(gate) * up of gate_up [T, 2F] -> [T, F].
Tensor swiglu(Context& ctx, const Tensor& gate_up);

}  // namespace hone::ops
