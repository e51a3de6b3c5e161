// Weight formats: a row each. A row makes a format work in every kernel of every path: products and
// the head expand the columns that they are about to multiply, embedding the rows that it takes.
// What makes it fast is a function of a path (backend/cpu/expand.h).
//
// With bf16 x, numbers of quantised formats count as rounded to bf16; with fp32 x as they are. So a
// product has the bits of one by the same weight expanded to x's dtype beforehand.
#pragma once

#include <memory>

#include "core/thread_pool.h"
#include "tensor/view.h"

namespace hone {

// A bf16 matrix on its way to a format without loss that takes as many bytes as its numbers need.
class CompactPacker {
 public:
  virtual ~CompactPacker() = default;
  virtual int64_t bytes() const = 0;
  virtual void pack(void* out) const = 0;
};

struct FormatOps {
  // Whether a matrix of this shape can be held. Null: any.
  bool (*fits)(int64_t rows, int64_t cols);
  // n numbers of a row from a column on.
  void (*to_fp32)(const WeightView& w, int64_t row, int64_t col, int64_t n, float* out);
  // From fp32 [rows, cols] into a view's data and scales. Null: plain formats, compact ones.
  void (*pack)(const float* values, const WeightView& to);
  // From rows x cols bf16, rows one after another, any alignment; they must outlive the packer.
  // Null: of such numbers it wouldn't save an eighth. Null function: not a compact format.
  std::unique_ptr<CompactPacker> (*compact)(const void* data, int64_t rows, int64_t cols,
                                            ThreadPool& pool);
  // Products along the columns take it in strips of 16 rows that they expand in registers.
  bool strips;
};
const FormatOps& format_ops(Format f);

inline bool format_fits(const WeightView& w) {
  const auto fits = format_ops(w.format).fits;
  return fits == nullptr || fits(w.rows, w.cols);
}

// Rows [begin, begin + rows) of a weight; begin is a multiple of the granule.
inline WeightView weight_rows(const WeightView& w, int64_t begin, int64_t rows) {
  WeightView s = w;
  s.data = static_cast<const char*>(w.data) + begin * w.stride_bytes;
  if (w.scale != nullptr)
    s.scale = static_cast<const char*>(w.scale) + begin / format_granule(w.format) * w.scale_stride;
  s.rows = rows;
  return s;
}

}  // namespace hone
