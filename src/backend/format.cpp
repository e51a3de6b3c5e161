#include "backend/format.h"

#include <iterator>

#include "backend/bf16t.h"
#include "backend/fp8_block.h"

namespace hone {
namespace {

template <class T>
void plain_to_fp32(const WeightView& w, int64_t row, int64_t col, int64_t n, float* out) {
  const char* in = static_cast<const char*>(w.data) + row * w.stride_bytes +
                   col * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < n; ++i) {
    T value;
    __builtin_memcpy(&value, in + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    out[i] = static_cast<float>(value);
  }
}

}  // namespace

const FormatOps& format_ops(Format f) {
  static constexpr FormatOps kOps[] = {
      {.to_fp32 = plain_to_fp32<float>},
      {.to_fp32 = plain_to_fp32<bf16>},
      {.to_fp32 = plain_to_fp32<f16>},
      {.to_fp32 = plain_to_fp32<double>},
      {.fits = Bf16tPacker::fits,
       .to_fp32 = bf16t_to_fp32,
       .compact = bf16t_compact,
       .strips = true},
      {.to_fp32 = fp8_block_to_fp32, .pack = fp8_block_pack},
  };
  static_assert(std::size(kOps) == std::size(kFormatLayouts));
  return kOps[static_cast<int>(f)];
}

}  // namespace hone
