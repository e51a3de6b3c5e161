// How gemm's driver cuts a job for an instruction path.
#pragma once

#include "backend/cpu/cpu.h"
#include "backend/cpu/gemm_tile.h"

namespace hone::cpu {

// What multiplies a job: words paths (gemm_tile.h) of 256 or 512 bits or of bf16 pairs, AMX tiles,
// or AMX's path of few rows.
enum class GemmKind : uint8_t { words256, words512, pairs, tiles, stream };

GemmKind gemm_kind(Isa isa, const GemmJob& job);

// How words paths take w. packed: a panel at a time. turned: where it lies, while x is packed
// (gemm_turned.inl). For few rows, straight from memory: expanded: a w in strips
// (gemm_strips.inl); squares: another w (gemm_squares.inl).
enum class GemmForm : uint8_t { packed, turned, expanded, squares };

// How a job is cut; sizes in bytes.
struct GemmCut {
  int64_t chunk_rows = 0;   // rows prepared together
  int64_t cols = 0;         // of a panel, at most
  int64_t col_unit = 32;    // cuts of columns fall on multiples of it
  int64_t panels = 1;       // the columns are cut into so many, as equal as the unit allows
  int64_t depth_block = 0;  // in the path's unit
  int64_t row_unit = 0;     // cuts of rows fall on multiples of it
  int64_t prepared = 0;     // of a chunk
  int64_t panel = 0;        // scratch of one worker
  int64_t expanded = 0;     // and its columns of a w that kernels don't know, expanded
  int64_t in_place = 0;     // GemmChunk
  int64_t pass_words = 0;   // GemmChunk
  int64_t block_rows = 0;   // GemmChunk
  bool groups = false;      // GemmChunk
  GemmForm form = GemmForm::packed;
};

GemmCut gemm_cut(const DeviceProps& props, GemmKind kind, const GemmJob& job);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace hone::cpu
