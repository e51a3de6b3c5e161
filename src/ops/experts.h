// Mixtures of experts: rows go to the experts that a router chose for them, and their results come
// back weighted. Legend: T rows of the stream, E experts, K experts a row, M = T * K rows sorted by
// expert, R rank.
#pragma once

#include <memory>
#include <vector>

#include "backend/desc/route.h"
#include "exec/context.h"
#include "ops/linear.h"

namespace hone::ops {

// Where the rows of a stream go. Rows of one expert lie together, in the stream's order.
struct ExpertRows {
  std::vector<int32_t> offsets;  // [E + 1]: expert e has sorted rows [offsets[e], offsets[e + 1])
  Tensor rows;                   // [M] i32: row of the stream
  Tensor places;                 // [T, K] i32: sorted row of a row's k-th expert
  int64_t count() const { return offsets.back(); }
};

struct Routed {
  std::shared_ptr<const ExpertRows> rows;
  Tensor weights;  // [T, K]; with a slot if the router's gradient is due
};

struct RouteOptions {
  RouteRule rule;
  int64_t experts_per_row = 1;
  bool wide_weights = false;  // fp32 weights, not of the logits' dtype
};

// Under meta all experts get alike many rows.
Routed route(Context& ctx, const RouteOptions& options, const Tensor& logits);

// The rows of x as experts take them: [M, D].
Tensor to_experts(Context& ctx, const std::shared_ptr<const ExpertRows>& rows, const Tensor& x);

// A linear layer of each expert, all of one shape. Matrices that share their input lie side by side
// in the result. LoRA is one pair over the whole width: A [E * R, in], B [E * out, R], expert by
// expert; without dropout.
struct ExpertLinear {
  std::vector<std::vector<ParamId>> weights;  // by matrix, then expert: [out, in]
  std::optional<Lora> lora;
  const char* label = "expert";
};
// y [M, sum of out]. Expert weights are trained all or none.
Tensor expert_linear(Context& ctx, const ExpertLinear& params,
                     const std::shared_ptr<const ExpertRows>& rows, const Tensor& x);

struct CombineOptions {
  bool wide = false;  // the result is fp32 whatever the run's dtype is: to be added to
  bool last = false;  // as of linear()
};
// add + the weighted sum of a row's experts, in the router's order: [T, D].
Tensor combine(Context& ctx, const Routed& routed, const Tensor& y, const Tensor& add,
               const CombineOptions& options = {});

}  // namespace hone::ops
