// Linear layers: a base weight in any format, an optional low-rank adapter, an optional residual
// sum. Legend: T rows, K in, N out, R rank.
#pragma once

#include <optional>
#include <span>

#include "exec/context.h"

namespace hone::ops {

// LoRA (Hu et al., 2021): y = x Wᵀ + scale * dropout(x) Aᵀ Bᵀ; A [R, K], B [N, R], both fp32.
struct Lora {
  ParamId a = kNoParam;
  ParamId b = kNoParam;
  float scale = 1;
  float dropout = 0;
  uint64_t salt = 0;  // of the dropout mask: the parameter's name hash
};

struct LinearParams {
  ParamId weight = kNoParam;  // [N, K]
  ParamId bias = kNoParam;    // [N]
  std::optional<Lora> lora;
  const char* label = "linear";
};

// y[T, sum N] = [x W1ᵀ + b1 | x W2ᵀ + b2 | ...] (+ add): parts that share their input, side by side
// in one buffer. One rounding per element. add [T, N] needs exactly one part; its gradient is
// passed through. row_ids [T] i64: identities for dropout, may be undefined without it. last: the
// result is the block's output (its value is skipped when a recomputation does not need it).
Tensor linear(Context& ctx, std::span<const LinearParams> parts, const Tensor& x,
              const Tensor& add = {}, const Tensor& row_ids = {}, bool last = false);

}  // namespace hone::ops
