#include "backend/fp8_block.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hone {
namespace {

constexpr float kLargest = 448;

float from_e4m3(uint8_t byte) {
  const int exponent = byte >> 3 & 15, mantissa = byte & 7;
  const float size = (byte & 0x7f) == 0x7f ? std::numeric_limits<float>::quiet_NaN()
                     : exponent == 0       ? std::ldexp(static_cast<float>(mantissa), -9)
                                     : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (byte & 0x80) != 0 ? -size : size;
}

uint8_t to_e4m3(float f) {
  const uint8_t sign = std::signbit(f) ? 0x80 : 0;
  if (std::isnan(f)) return sign | 0x7f;
  const float size = std::min(std::fabs(f), kLargest);
  const int exponent = size == 0 ? -6 : std::max(std::ilogb(size), -6);
  // 8 comes on top of what a normal number keeps: the exponent's last bit
  const float bits =
      std::nearbyint(std::ldexp(size, 3 - exponent)) + static_cast<float>(8 * (exponent + 6));
  return sign | static_cast<uint8_t>(bits);
}

float scale_at(const WeightView& w, int64_t row, int64_t col) {
  float scale;
  __builtin_memcpy(
      &scale,
      static_cast<const char*>(w.scale) + row / kFp8Block * w.scale_stride + col / kFp8Block * 4,
      4);
  return scale;
}

}  // namespace

void fp8_block_to_fp32(const WeightView& w, int64_t row, int64_t col, int64_t n, float* out) {
  const uint8_t* in = static_cast<const uint8_t*>(w.data) + row * w.stride_bytes;
  for (int64_t i = 0; i < n; ++i) out[i] = from_e4m3(in[col + i]) * scale_at(w, row, col + i);
}

void fp8_block_pack(const float* values, const WeightView& to) {
  char* data = static_cast<char*>(const_cast<void*>(to.data));
  char* scales = static_cast<char*>(const_cast<void*>(to.scale));
  for (int64_t r0 = 0; r0 < to.rows; r0 += kFp8Block) {
    const int64_t r1 = std::min(to.rows, r0 + kFp8Block);
    for (int64_t c0 = 0; c0 < to.cols; c0 += kFp8Block) {
      const int64_t c1 = std::min(to.cols, c0 + kFp8Block);
      float largest = 0;
      for (int64_t r = r0; r < r1; ++r) {
        for (int64_t c = c0; c < c1; ++c)
          largest = std::max(largest, std::fabs(values[r * to.cols + c]));
      }
      const float scale = largest > 0 ? largest / kLargest : 1;
      __builtin_memcpy(scales + r0 / kFp8Block * to.scale_stride + c0 / kFp8Block * 4, &scale, 4);
      for (int64_t r = r0; r < r1; ++r) {
        for (int64_t c = c0; c < c1; ++c)
          data[r * to.stride_bytes + c] =
              static_cast<char>(to_e4m3(values[r * to.cols + c] / scale));
      }
    }
  }
}

}  // namespace hone
