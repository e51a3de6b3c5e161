// Plain-old-data views: all that kernels ever see of a tensor or a weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/dtype.h"

namespace hone {

constexpr int kMaxDims = 4;

// A strided array. Strides are in elements; the last dim is contiguous (stride 1). rank 0 means
// "none". Under the meta device data is null and never touched. Alignment promised: one element.
struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t shape[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};

  bool none() const { return rank == 0; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return rank == 0 ? 0 : n;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // Address of row i of the first dim.
  template <class T>
  T* row(int64_t i) const {
    return static_cast<T*>(data) + i * stride[0];
  }
};
static_assert(std::is_trivially_copyable_v<View>);

// How a weight matrix lies in memory. A new format is one file of a backend: kernels that multiply
// by a weight expand it inside, tile by tile. bf16t: bf16 without loss in 12 bits a number, for
// generation (backend/cpu/bf16t.h).
enum class Format : uint8_t { f32, bf16, f16, f64, bf16t };

// Slices of rows fall on multiples of it.
constexpr int64_t format_granule(Format f) { return f == Format::bf16t ? 16 : 1; }
constexpr size_t format_bits(Format f) {
  switch (f) {
    case Format::f32:
      return 32;
    case Format::bf16:
    case Format::f16:
      return 16;
    case Format::f64:
      return 64;
    case Format::bf16t:
      return 12;
  }
  return 0;
}
// Of the values.
constexpr DType format_dtype(Format f) {
  switch (f) {
    case Format::f32:
      return DType::f32;
    case Format::bf16:
    case Format::bf16t:
      return DType::bf16;
    case Format::f16:
      return DType::f16;
    case Format::f64:
      return DType::f64;
  }
  return DType::f32;
}
// From a row to the next; of bf16t a sixteenth of 16 rows with their header, a byte for each 32
// columns.
constexpr int64_t format_row_bytes(Format f, int64_t cols) {
  const int64_t bytes = cols * static_cast<int64_t>(format_bits(f)) / 8;
  return f == Format::bf16t ? bytes + (cols / 32 + 63) / 64 * 4 : bytes;
}

// A weight [rows, cols] as in a Hugging Face file: [out_features, in_features]. scale is for
// quantised formats.
struct WeightView {
  const void* data = nullptr;
  const void* scale = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride_bytes = 0;
  Format format = Format::f32;

  bool none() const { return rows == 0; }
};
static_assert(std::is_trivially_copyable_v<WeightView>);

}  // namespace hone
