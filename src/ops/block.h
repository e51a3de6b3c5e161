// Pieces of a decoder block that work on rows. Legend: T rows, D features, F intermediate size.
#pragma once

#include "exec/context.h"

namespace hone::ops {

// y[T, D] = table[tokens], in ctx.dtype; differentiable if the table is trained.
Tensor embedding(Context& ctx, ParamId table, const Tensor& tokens);

// RMSNorm over the last dim of x [T, D].
Tensor rms_norm(Context& ctx, ParamId weight, double eps, const Tensor& x, const char* label);

// silu(gate) * up of gate_up [T, 2F] -> [T, F].
Tensor swiglu(Context& ctx, const Tensor& gate_up);

}  // namespace hone::ops
