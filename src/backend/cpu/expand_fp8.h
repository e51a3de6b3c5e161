// Runs of E4M3 numbers with one scale. Plain declarations, because files compiled with -m flags
// include this.
#pragma once

#include <cstdint>

namespace hone::cpu {

// out[i] = in[i] * scale, as fp32 or rounded to bf16.
using ExpandFp8 = void (*)(const uint8_t* in, float scale, int64_t n, bool as_bf16, void* out);
extern const ExpandFp8 kExpandFp8Avx2, kExpandFp8Avx512;

}  // namespace hone::cpu
