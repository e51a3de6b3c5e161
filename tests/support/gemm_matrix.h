// A matrix in guarded memory, and a product run on one: what the tests of gemm, gemm_dw share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"

namespace hone::test {

inline std::string isa_label(const testing::TestParamInfo<cpu::Isa>& info) {
  return std::string(cpu::isa_name(info.param));
}

// v as fp16, to nearest even; of the range of normal numbers and below.
inline uint16_t half_bits(double v) {
  if (std::isnan(v)) return 0x7E00;
  if (std::isinf(v)) return v < 0 ? 0xFC00 : 0x7C00;
  const double size = std::abs(v);
  const int e = std::max(size == 0 ? -14 : std::ilogb(size), -14);
  // 1024 comes on top of what a normal number keeps: the exponent's last bit
  const double bits = std::nearbyint(std::ldexp(size, 10 - e)) + 1024 * (e + 14);
  return static_cast<uint16_t>(bits + (std::signbit(v) ? 0x8000 : 0));
}

// A matrix with rows further apart than wide, starting at an odd address for its type, between
// guard bytes.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, DType type, int64_t gap = 0)
      : rows_(rows), cols_(cols), stride_(cols + gap), type_(type) {
    bytes_.assign(static_cast<size_t>(rows * stride_) * dtype_size(type) + 2 * kGuard + 64, kFill);
    offset_ = kGuard + dtype_size(type);
  }
  void randomise(std::mt19937& rng, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < cols_; ++j) set(i, j, normal(rng));
    }
  }
  void set(int64_t i, int64_t j, double v) {
    char* p = at(i, j);
    if (type_ == DType::f32) {
      const float f = static_cast<float>(v);
      std::memcpy(p, &f, 4);
    } else if (type_ == DType::bf16) {
      const bf16 h(static_cast<float>(v));
      std::memcpy(p, &h, 2);
    } else if (type_ == DType::f16) {
      const uint16_t h = half_bits(v);
      std::memcpy(p, &h, 2);
    } else {
      std::memcpy(p, &v, 8);
    }
  }
  double get(int64_t i, int64_t j) const {
    const char* p = const_cast<Matrix*>(this)->at(i, j);
    if (type_ == DType::f32) {
      float f;
      std::memcpy(&f, p, 4);
      return f;
    }
    if (type_ == DType::f64) {
      double f;
      std::memcpy(&f, p, 8);
      return f;
    }
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    if (type_ == DType::bf16) return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    f16 h;
    h.bits = bits;
    return static_cast<float>(h);
  }
  char* at(int64_t i, int64_t j) {
    return bytes_.data() + offset_ + static_cast<size_t>(i * stride_ + j) * dtype_size(type_);
  }
  View view() { return rows(0, rows_); }
  View rows(int64_t begin, int64_t end) {
    View v;
    v.data = at(begin, 0);
    v.dtype = type_;
    v.rank = 2;
    v.shape[0] = end - begin;
    v.shape[1] = cols_;
    v.stride[0] = stride_;
    v.stride[1] = 1;
    return v;
  }
  View vector() {
    View v = view();
    v.rank = 1;
    v.shape[0] = cols_;
    v.stride[0] = 1;
    return v;
  }
  WeightView weight() {
    WeightView w;
    w.data = at(0, 0);
    w.rows = rows_;
    w.cols = cols_;
    w.stride_bytes = stride_ * static_cast<int64_t>(dtype_size(type_));
    w.format = type_ == DType::f32    ? Format::f32
               : type_ == DType::bf16 ? Format::bf16
               : type_ == DType::f16  ? Format::f16
                                      : Format::f64;
    return w;
  }
  // Nothing but the elements was written.
  bool guards_hold() {
    std::vector<char> copy = bytes_;
    const size_t size = dtype_size(type_);
    for (int64_t i = 0; i < rows_; ++i) {
      std::memset(copy.data() + offset_ + static_cast<size_t>(i * stride_) * size, kFill,
                  static_cast<size_t>(cols_) * size);
    }
    return std::all_of(copy.begin(), copy.end(), [](char c) { return c == kFill; });
  }
  Matrix as(DType type) const {
    Matrix m(rows_, cols_, type);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < cols_; ++j) m.set(i, j, get(i, j));
    }
    return m;
  }
  int64_t row_count() const { return rows_; }
  int64_t col_count() const { return cols_; }
  DType type() const { return type_; }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr char kFill = 0x5a;
  int64_t rows_, cols_, stride_;
  DType type_;
  size_t offset_;
  std::vector<char> bytes_;
};

// Runs with as much scratch as the kernel asks for, full of NaN, and looks behind it.
template <class Desc>
Status run(const Kernel<Desc>& kernel, const Desc& desc, int threads) {
  ThreadPool pool(threads);
  const DeviceProps props = cpu::device_props(threads);
  const size_t bytes = kernel.scratch_bytes ? kernel.scratch_bytes(props, desc) : 0;
  constexpr size_t kGuard = 4096;
  std::vector<char> memory(bytes + 64 + kGuard, 0x5a);
  char* scratch = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  // whatever lies there: quiet NaN as fp32 and as bf16
  for (size_t i = 0; i < bytes; ++i) scratch[i] = static_cast<char>(i % 2 ? 0x7f : 0xff);
  const Status status = kernel.run(
      {.pool = &pool, .scratch = scratch, .scratch_bytes = bytes, .props = &props}, desc);
  for (char* p = scratch + bytes; p < memory.data() + memory.size(); ++p) {
    EXPECT_EQ(*p, 0x5a) << "wrote behind its scratch";
    if (*p != 0x5a) break;
  }
  return status;
}

}  // namespace hone::test
