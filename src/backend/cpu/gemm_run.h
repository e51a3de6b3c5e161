// Runs the groups of a call of gemm or gemm_dw on a vector path, together: rows of x are prepared
// for as many groups as fit in the scratch, then all their panels are computed, without a barrier
// from group to group. None of these cuts changes a bit: an element is one chain over the depth
// however it is cut.
#pragma once

#include "backend/cpu/expand.h"
#include "backend/cpu/gemm_cut.h"
#include "core/function_ref.h"

namespace hone::cpu {

// A group of a call. packed: the weight, if its format is one that kernels don't know; w then has
// the shape and the stride of its columns as expanded, a panel at a time.
struct GroupJob : GemmJob {
  const WeightView* packed = nullptr;
};

// From a row to the next of so many expanded numbers: whole lines, an odd number of them, so that
// rows spread over a cache's sets.
int64_t expanded_stride(int64_t numbers, GemmElem type);

// Calls its argument for each group with rows, in order, the same each time.
using EachGroup = FunctionRef<void(FunctionRef<void(const GroupJob&)>)>;

size_t groups_scratch(Isa isa, const DeviceProps& props, EachGroup each);
void run_groups(Isa isa, const KernelCtx& ctx, EachGroup each);

}  // namespace hone::cpu
