// Numbers of a weight in any format, as a path expands them: a row of backend/format.h, or a faster
// function of the path with the same bits.
#pragma once

#include "backend/cpu/cpu.h"
#include "backend/cpu/expand_fp8.h"
#include "backend/format.h"

namespace hone::cpu {

constexpr int64_t kExpandRun = 256;  // numbers for which callers keep room on the stack

// n numbers of a row from a column on, as fp32 or rounded to bf16.
void expand_weight_row(Isa isa, const WeightView& w, int64_t row, int64_t col, int64_t n, DType as,
                       void* out);

}  // namespace hone::cpu
