// Format::fp8_block: E4M3 (OCP 8-bit floating point, no infinities, 0x7f is NaN) with an fp32 scale
// for each block of 128 rows by 128 columns, from the top left, the last ones short; as
// DeepSeek-V3's files have it. A number is byte * scale, in fp32, rounded once.
#pragma once

#include "tensor/view.h"

namespace hone {

constexpr int64_t kFp8Block = 128;

void fp8_block_to_fp32(const WeightView& w, int64_t row, int64_t col, int64_t n, float* out);
// Scales are the largest number of a block over 448 (1 where that is 0); numbers over the scale go
// to the nearest E4M3, ties to even.
void fp8_block_pack(const float* values, const WeightView& to);

}  // namespace hone
