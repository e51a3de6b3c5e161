// What gemm's driver hands to an instruction path: plain data only, because files compiled with -m
// flags include this.
#pragma once

#include <cstdint>

namespace hone::cpu {

enum class GemmElem : uint8_t { f32, bf16, f16 };

// rows x cols elements, rows stride bytes apart. data null: none. strips: bf16 in packed tiles, 16
// rows beside each other and 16 strides to the next 16 (PackedStrip of backend/bf16t.inl).
struct GemmMatrix {
  const void* data;
  int64_t rows, cols, stride;
  GemmElem type;
  bool strips = false;
};

// y[t, n] = round(alpha * sum_k x[t, k] w(k, n) + sum_r x2[t, r] w2(r, n) + bias[n] + add[t, n]),
// one group of a call.
struct GemmJob {
  GemmMatrix x;       // [t, k]; x_by_depth: [k, t]
  GemmMatrix w;       // [n, k]; w_by_depth: [k, n]
  GemmMatrix x2, w2;  // [t, r] f32, [n, r] or [r, n] f32
  GemmMatrix bias;    // [1, n]
  GemmMatrix add;     // [t, n]
  GemmMatrix y;       // [t, n], written
  int64_t t, n, k, r;
  float alpha;
  bool x_by_depth, w_by_depth;
};

// Rows [begin, begin + rows) of x that are prepared together, at prepared (layout private to the
// path; null: a panel prepares what it needs itself). in_place: steps of the depth that the tiles
// path reads where x lies.
struct GemmChunk {
  int64_t begin, rows;
  void* prepared;
  int64_t in_place;
  int64_t depth_block;  // of a panel of w, in the path's unit: multiples of 32, or the whole depth
  // words paths: most words of the depth that are packed at once (a block of the product, the
  // low-rank words too behind the last one); columns from a panel to its worker's next, about
  int64_t pass_words, next_panel;
  // and rows of x, whole tiles, that meet a strip of w before the next strip
  int64_t block_rows;
  // and whether x (and x2) is prepared by groups of rows of a tile, for each block of the depth:
  // [block][group][word of the block][row of the group]
  bool groups;
};

// One instruction path. prepare fills the rows [t0, t0 + rows) of a chunk; panel computes y[t0..,
// n0..).
struct GemmPath {
  void (*prepare)(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows);
  void (*panel)(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
                int64_t cols, void* scratch);
};

// At most kGemmStreamRows rows against a bf16 w ([n, k]), also in strips. prepare packs x into a
// worker's scratch; panel computes columns [n0, n0 + cols) of all rows with it. Scratch: 64 bytes a
// row and step of the depth, and kGemmStreamScratch.
struct GemmStreamPath {
  void (*prepare)(const GemmJob* job, void* scratch);
  void (*panel)(const GemmJob* job, int64_t n0, int64_t cols, void* scratch);
};
constexpr int64_t kGemmStreamCols = 64;  // of strips are computed together, for up to 16 rows
constexpr int64_t kGemmStreamScratch = (32 + 2 * 32 * 32) * 4 + 8 * 1024;
constexpr int64_t kGemmStreamRows = 32;

// A weight gradient with one narrow side: out(r, w) += alpha * sum_t narrow[t, r] wide[t, w], r <=
// kGemmNarrow. The gradients of LoRA's two matrices, above all.
struct GemmNarrowJob {
  GemmMatrix narrow;  // [t, r]; tiles: f32
  GemmMatrix wide;    // [t, w]; tiles: bf16
  GemmMatrix out;     // f32 [r, w]; by_wide: [w, r]
  int64_t t, r, w;
  float alpha;
  bool by_wide;
};
// prepare (null: nothing is) fills steps [first, first + steps) of prepared; panel adds columns
// [w0, w0 + cols), cols <= kGemmNarrowCols.
struct GemmNarrowPath {
  void (*prepare)(const GemmNarrowJob* job, int64_t first, int64_t steps, void* prepared);
  void (*panel)(const GemmNarrowJob* job, const void* prepared, int64_t w0, int64_t cols,
                void* scratch);
};
constexpr int64_t kGemmNarrow = 64;
constexpr int64_t kGemmNarrowCols = 512;
// Bytes of a worker's scratch: sums (tiles: of the high and low parts), and blocks of the operands.
constexpr int64_t kGemmNarrowScratch = 2 * kGemmNarrow * kGemmNarrowCols * 4 + 4096;

// Words paths (gemm_words.inl, gemm_turned.inl): x and w as 32-bit words along the depth: one fp32
// (f32 paths) or a pair of bf16.
constexpr int64_t kGemmWordsRows512 = 14;  // rows of a register tile
constexpr int64_t kGemmWordsRows256 = 6;
constexpr int64_t kGemmWordsCols512 = 32;  // columns of a register tile: a strip
constexpr int64_t kGemmWordsCols256 = 16;
constexpr int64_t kGemmWordsDepth = 1024;  // most words of a block of w
constexpr int64_t kGemmFewRows = 32;       // of a job: so few that the reading of w counts
// Most rows of the forms that don't pack w (gemm_cut.h): expanded, there with 256 bits, squares.
constexpr int64_t kGemmExpandedRows = 32, kGemmExpandedRows256 = 8, kGemmSquareRows = 8;
constexpr int64_t kGemmWordsFewDepth = 256;  // most words of a block for so few
constexpr int64_t kGemmWordsChunk = 1036;    // most rows of a chunk: its sums stay there too
// Columns and depth from which x is packed by groups (256 bits).
constexpr int64_t kGemmGroupsCols = 512, kGemmGroupsDepth = 256;
constexpr int64_t kGemmRawCols = 128;  // up to which panels expand x themselves
// Columns of an fp32 w up to which both of its bf16 parts lie in one strip.
constexpr int64_t kGemmBothCols = 16;
// Turned products: x is packed and w is read where it lies, for at most so many rows.
constexpr int64_t kGemmTurnedRows = 512, kGemmTurnedRows256 = 128;
constexpr int64_t kGemmTurnedCols = 128;  // of a panel, at most
// Tiles (gemm_amx.cpp): 32 x 32 blocks of y, steps of 32 along the depth.
constexpr int64_t kGemmTileRows = 32;
constexpr int64_t kGemmTileStep = 32;

}  // namespace hone::cpu
