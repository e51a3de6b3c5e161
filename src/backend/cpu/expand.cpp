#include "backend/cpu/expand.h"

#include <algorithm>

#include "backend/fp8_block.h"

namespace hone::cpu {
namespace {

void expand_fp8(ExpandFp8 run, const WeightView& w, int64_t row, int64_t col, int64_t n,
                bool as_bf16, char* out) {
  const uint8_t* in = static_cast<const uint8_t*>(w.data) + row * w.stride_bytes;
  const char* scales = static_cast<const char*>(w.scale) + row / kFp8Block * w.scale_stride;
  for (const int64_t end = col + n; col < end;) {
    const int64_t some = std::min((col / kFp8Block + 1) * kFp8Block, end) - col;
    float scale;
    __builtin_memcpy(&scale, scales + col / kFp8Block * 4, 4);
    run(in + col, scale, some, as_bf16, out);
    out += some * (as_bf16 ? 2 : 4);
    col += some;
  }
}

}  // namespace

void expand_weight_row(Isa isa, const WeightView& w, int64_t row, int64_t col, int64_t n, DType as,
                       void* out) {
  const bool as_bf16 = as == DType::bf16;
  if (w.format == Format::fp8_block && isa >= Isa::avx2) {
    const ExpandFp8 run = isa == Isa::avx2 ? kExpandFp8Avx2 : kExpandFp8Avx512;
    return expand_fp8(run, w, row, col, n, as_bf16, static_cast<char*>(out));
  }
  const auto to_fp32 = format_ops(w.format).to_fp32;
  if (!as_bf16) return to_fp32(w, row, col, n, static_cast<float*>(out));
  bf16* rounded = static_cast<bf16*>(out);
  for (int64_t i = 0; i < n; i += kExpandRun) {
    float run[kExpandRun];
    const int64_t some = std::min(kExpandRun, n - i);
    to_fp32(w, row, col + i, some, run);
    for (int64_t j = 0; j < some; ++j) rounded[i + j] = bf16(run[j]);
  }
}

}  // namespace hone::cpu
