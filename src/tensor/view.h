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

// How a weight matrix lies in memory. A format is a row here, what it is for callers, and a row of
// backend/format.h, what its numbers are. bf16t: bf16 without loss in 12 bits a number, for
// generation (backend/bf16t.h). fp8_block: E4M3 in blocks of 128 x 128 with an fp32 scale each
// (backend/fp8_block.h).
enum class Format : uint8_t { f32, bf16, f16, f64, bf16t, fp8_block };

struct FormatLayout {
  const char* name;
  DType values;  // of the numbers; those of formats that aren't plain may be rounded to bf16 once
                 // more
  int bits;      // of a number, in data
  int granule_rows,
      granule_cols;  // slices fall on multiples of them; a row of scales has granule_rows
  bool plain;        // rows of values, nothing else
};
constexpr FormatLayout kFormatLayouts[] = {
    {"fp32", DType::f32, 32, 1, 1, true},      {"bf16", DType::bf16, 16, 1, 1, true},
    {"fp16", DType::f16, 16, 1, 1, true},      {"fp64", DType::f64, 64, 1, 1, true},
    {"bf16t", DType::bf16, 12, 16, 32, false}, {"fp8_block", DType::f32, 8, 128, 128, false},
};
constexpr const FormatLayout& format_layout(Format f) {
  return kFormatLayouts[static_cast<int>(f)];
}
constexpr int64_t format_granule(Format f) { return format_layout(f).granule_rows; }
constexpr size_t format_bits(Format f) { return static_cast<size_t>(format_layout(f).bits); }
constexpr DType format_dtype(Format f) { return format_layout(f).values; }
// From a row to the next; of bf16t a sixteenth of 16 rows with their header, a byte for each 32
// columns.
constexpr int64_t format_row_bytes(Format f, int64_t cols) {
  const int64_t bytes = cols * static_cast<int64_t>(format_bits(f)) / 8;
  return f == Format::bf16t ? bytes + (cols / 32 + 63) / 64 * 4 : bytes;
}
// From a row of scales to the next, 0 where there are none.
constexpr int64_t format_scale_bytes(Format f, int64_t cols) {
  return f == Format::fp8_block ? (cols + 127) / 128 * 4 : 0;
}

// A weight [rows, cols] as in a Hugging Face file: [out_features, in_features]. scale is for
// quantised formats: a row of scales for each granule_rows rows.
struct WeightView {
  const void* data = nullptr;
  const void* scale = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride_bytes = 0;
  int64_t scale_stride = 0;  // bytes
  Format format = Format::f32;

  bool none() const { return rows == 0; }
};
static_assert(std::is_trivially_copyable_v<WeightView>);

// A weight without gaps. scale: null for formats without scales.
inline WeightView contiguous_weight(Format format, const void* data, const void* scale,
                                    int64_t rows, int64_t cols) {
  return {.data = data,
          .scale = scale,
          .rows = rows,
          .cols = cols,
          .stride_bytes = format_row_bytes(format, cols),
          .scale_stride = format_scale_bytes(format, cols),
          .format = format};
}

}  // namespace hone
