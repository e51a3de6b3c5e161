// Format::bf16t: bf16 matrices without loss in 12 bits a number, for work that is bound by reading
// its weights (generation). The 8 bits of the exponent hold little: within 16 rows by 32 columns
// all but a few of a thousand weights lie in 16 powers of two, so that 4 bits say which. The idea
// of coding exponents is that of DFloat11 (arXiv 2504.11651) and ZipNN (2411.05239); here it is of
// fixed width, so that tiles can be found and expanded by a few vector instructions.
#pragma once

#include <vector>

#include "backend/format.h"

namespace hone {

// Packs a matrix: look through it, ask for the size, pack.
class Bf16tPacker : public CompactPacker {
 public:
  // data: rows x cols bf16, rows one after another, any alignment; it must outlive the packer.
  // Where fits().
  Bf16tPacker(const void* data, int64_t rows, int64_t cols, ThreadPool& pool);
  static bool fits(int64_t rows, int64_t cols) { return rows % 16 == 0 && cols % 32 == 0; }

  int64_t bytes() const override;
  // Whether that saves more than an eighth: not if many tiles have exponents too far apart.
  bool worth() const { return bytes() < rows_ * cols_ * 2 / 8 * 7; }
  void pack(void* out) const override;

 private:
  const char* data_;
  int64_t rows_, cols_;
  ThreadPool& pool_;
  std::vector<uint8_t> bases_;       // a tile's, strip after strip
  std::vector<int64_t> raw_before_;  // tiles that stay bf16 before each strip, and in all
};

std::unique_ptr<CompactPacker> bf16t_compact(const void* data, int64_t rows, int64_t cols,
                                             ThreadPool& pool);
void bf16t_to_fp32(const WeightView& w, int64_t row, int64_t col, int64_t n, float* out);

}  // namespace hone
