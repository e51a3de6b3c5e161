#include "backend/cpu/gemm_cut.h"

#include <algorithm>
#include <numeric>

namespace hone::cpu {
namespace {

// Forms are of the words paths, and of w as [n, depth].
GemmForm form_of(GemmKind kind, const GemmJob& job) {
  if (job.x_by_depth || job.w_by_depth || job.k == 0) return GemmForm::packed;
  const bool wide = kind != GemmKind::words256;
  if (job.w.strips) {
    const int64_t most = wide ? kGemmExpandedRows : kGemmExpandedRows256;
    return job.t <= most ? GemmForm::expanded : GemmForm::packed;
  }
  if (!wide && job.t <= kGemmSquareRows && job.w.type != GemmElem::f16) return GemmForm::squares;
  // where its words are as they lie, and x is the smaller side
  const bool words = kind == GemmKind::pairs ? job.w.type == GemmElem::bf16 && job.k % 2 == 0
                                             : job.w.type == GemmElem::f32;
  const int64_t most = wide ? kGemmTurnedRows : kGemmTurnedRows256;
  return words && job.t <= most && job.t <= job.n ? GemmForm::turned : GemmForm::packed;
}

// Panels of at most so many units, and as many for each thread.
void cut_columns(GemmCut& c, int64_t n, int64_t most, int64_t threads) {
  const int64_t units = std::max<int64_t>(ceil_div(n, c.col_unit), 1);
  c.panels = std::min(units, round_up(ceil_div(units, most), threads));
  c.cols = c.col_unit * ceil_div(units, c.panels);
}

GemmCut cut_turned(const DeviceProps& props, GemmKind kind, const GemmJob& job) {
  GemmCut c;
  const bool wide = kind != GemmKind::words256;
  const int64_t strip = wide ? kGemmWordsCols512 : kGemmWordsCols256;
  const int64_t elems = kind == GemmKind::pairs ? 2 : 1;  // of a word
  const int64_t parts = elems;                            // of x2 and w2
  const int64_t words = ceil_div(job.k, elems), low = ceil_div(job.r, elems);
  c.form = GemmForm::turned;
  c.row_unit = strip;
  c.chunk_rows = round_up(job.t, strip);
  c.prepared = round_up(c.chunk_rows * (words + parts * low) * 4, 64);
  // a block of x fills half of L2, and as much of a tile's rows of w two thirds of L1 if they are
  // read again
  const int64_t tile_rows = wide ? kGemmWordsRows512 : kGemmWordsRows256;
  const int64_t most =
      job.t <= strip ? words
                     : std::min(static_cast<int64_t>(props.l2_bytes) / 2 / (c.chunk_rows * 4),
                                static_cast<int64_t>(props.l1_bytes) * 2 / 3 / (tile_rows * 4));
  c.depth_block = round_up(ceil_div(words, ceil_div(words, std::max<int64_t>(most, 32))), 32);
  // whole lines of y: two threads that write into one hold each other up
  c.col_unit = 32;
  cut_columns(c, job.n, kGemmTurnedCols / c.col_unit, props.threads);
  c.panel =
      round_up((parts * c.cols * round_up(low, 16) + round_up(c.cols, 16) * c.chunk_rows) * 4, 64);
  return c;
}

// Blocks of a packed w for many rows. 256 bits: a strip of w stays in L1, and a third of L2 holds
// the rows of x that meet it there, by groups unless few columns make the copy too dear, or a short
// depth leaves it nothing to bring in. 512 bits:
// the rows of a tile meet all strips of the panel, which stay in L2.
struct Blocks {
  int64_t words, tiles;
  bool groups;
};
Blocks blocks_of(const DeviceProps& props, bool strips_in_l1, const GemmJob& job) {
  if (!strips_in_l1) return {kGemmWordsDepth, 1, job.x_by_depth};
  const int64_t l1 = static_cast<int64_t>(props.l1_bytes),
                l2 = static_cast<int64_t>(props.l2_bytes);
  const int64_t words =
      std::clamp<int64_t>(l1 * 7 / 8 / (kGemmWordsCols256 * 4) / 32 * 32, 128, kGemmWordsDepth);
  return {words, std::max<int64_t>(l2 / 3 / (words * kGemmWordsRows256 * 4), 1),
          job.x_by_depth || (job.n >= kGemmGroupsCols && job.k >= kGemmGroupsDepth)};
}

GemmCut cut_stream(const GemmJob& job) {
  GemmCut c;
  const int64_t total = ceil_div(job.k, kGemmTileStep) + ceil_div(3 * job.r, kGemmTileStep);
  c.cols = job.w.strips && job.t <= 16 ? kGemmStreamCols : 32;
  c.panel = total * 64 * job.t + kGemmStreamScratch;
  return c;
}

GemmCut cut_tiles(const DeviceProps& props, const GemmJob& job) {
  GemmCut c;
  const int64_t total = ceil_div(job.k, kGemmTileStep) + ceil_div(3 * job.r, kGemmTileStep);
  const int64_t parts = job.w.type == GemmElem::f32 ? 2 : 1;
  constexpr int64_t step_bytes = 32 * kGemmTileStep * 2;
  c.row_unit = kGemmTileRows;
  c.chunk_rows = std::min<int64_t>(2048, round_up(job.t, kGemmTileRows));
  // x is read where it lies if few columns or few rows make a second copy too dear, or if 32 rows
  // of it spread over the sets of L1 (lines of 64 bytes, 64 sets)
  const bool direct = !job.x_by_depth && (job.n <= 64 || job.t <= 32);
  const bool spread = job.x.stride % 64 == 0 && std::gcd(job.x.stride / 64, int64_t{64}) <= 8;
  if (!job.x_by_depth && (direct || spread)) c.in_place = job.k / kGemmTileStep;
  if (!direct) c.prepared = c.chunk_rows / kGemmTileRows * (total - c.in_place) * step_bytes;
  const int64_t depth = std::max<int64_t>(total, 1);
  // few rows against a w by depth: its rows are read in long pieces, few at a time
  const bool rows_of_w = job.t <= 32 && job.w_by_depth;
  c.depth_block = ceil_div(depth, ceil_div(depth, rows_of_w ? 8 : direct ? 160 : 32));
  // a panel fills less than half of L2
  const int64_t most = std::clamp<int64_t>(
      static_cast<int64_t>(props.l2_bytes) * 15 / 32 / (c.depth_block * parts * step_bytes), 1, 16);
  // few columns: x is the larger side, so rows are cut instead
  const bool by_rows =
      ceil_div(job.n, 32) <= std::min<int64_t>(most, 8) && job.t >= 512 * props.threads;
  if (by_rows) {
    c.cols = round_up(job.n, 32);
  } else if (job.t <= 32 && !rows_of_w) {
    cut_columns(c, job.n, std::min<int64_t>(most, 2), 1);
  } else {
    cut_columns(c, job.n, most, props.threads);
  }
  const bool in_memory = total > c.depth_block || (job.alpha != 1 && job.r > 0);
  c.panel = c.cols / 32 * c.depth_block * parts * step_bytes +
            (in_memory ? c.chunk_rows : 32) * c.cols * 4 + c.cols * 4 +
            (c.in_place > 0 || direct ? total * step_bytes : 0);
  c.panel = round_up(c.panel, 64);
  return c;
}

GemmCut cut_words(const DeviceProps& props, GemmKind kind, GemmForm form, const GemmJob& job) {
  GemmCut c;
  c.form = form;
  const bool wide = kind != GemmKind::words256;
  const int64_t strip = wide ? kGemmWordsCols512 : kGemmWordsCols256;
  c.row_unit = wide ? kGemmWordsRows512 : kGemmWordsRows256;
  // copies of long rows are made for half as many
  const int64_t chunk = job.k > 2048 && (job.x.type == GemmElem::bf16 || job.x_by_depth)
                            ? kGemmWordsChunk / 2
                            : kGemmWordsChunk;
  c.chunk_rows = round_up(ceil_div(job.t, ceil_div(job.t, chunk)), c.row_unit);
  const bool unpacked = form == GemmForm::expanded || form == GemmForm::squares;
  // few rows: a block of w, read back at once, stays in L1, and is long where w is; of strips it
  // is read back often
  const bool few = job.t <= kGemmFewRows && (unpacked || !job.w.strips);
  const Blocks blocks = blocks_of(props, !wide && !few && form == GemmForm::packed, job);
  // narrow w: x passes once
  const bool narrow =
      kind == GemmKind::pairs && job.w.type == GemmElem::f32 && job.n <= kGemmBothCols;
  const int64_t most = narrow           ? 4 * kGemmWordsDepth
                       : !few           ? blocks.words
                       : job.w_by_depth ? 32
                                        : kGemmWordsFewDepth;
  const int64_t words = std::max<int64_t>(kind == GemmKind::pairs ? ceil_div(job.k, 2) : job.k, 1);
  c.depth_block = std::min(round_up(ceil_div(words, ceil_div(words, most)), 32), most);
  c.col_unit = strip;
  // else a block of w fills half of L2
  const int64_t in_l2 = static_cast<int64_t>(props.l2_bytes) / 2 / (c.depth_block * strip * 4);
  const int64_t most_strips = !few             ? std::clamp<int64_t>(in_l2, 1, 8)
                              : job.w_by_depth ? 8
                              : unpacked       ? 16
                                               : 1;
  cut_columns(c, job.n, most_strips, props.threads);
  c.groups = blocks.groups;
  c.block_rows = few ? c.chunk_rows : blocks.tiles * c.row_unit;
  if (kind == GemmKind::pairs) {
    const bool in_place = !job.x_by_depth && job.k % 2 == 0;
    c.prepared = c.chunk_rows * 4 * ((in_place ? 0 : ceil_div(job.k, 2)) + 2 * ceil_div(job.r, 2));
  } else if (c.groups) {
    c.prepared = c.chunk_rows * (job.k + job.r) * 4;
  } else {
    const bool raw = form == GemmForm::packed && !few && job.r == 0 && job.n <= kGemmRawCols;
    c.prepared = job.x.type == GemmElem::bf16 && !raw ? c.chunk_rows * job.k * 4 : 0;
  }
  c.prepared = round_up(c.prepared, 64);
  if (unpacked) c.depth_block = kGemmWordsFewDepth;
  // the low-rank words are packed with the product's last block
  const int64_t low = kind == GemmKind::pairs ? 3 * ceil_div(job.r, 2) : job.r;
  c.pass_words = c.depth_block + (low <= 256 ? low : 0);
  c.panel =
      (c.pass_words * c.cols + (c.depth_block + 16) * c.block_rows + c.chunk_rows * c.cols) * 4;
  c.panel = round_up(c.panel, 64);
  return c;
}

}  // namespace

GemmKind gemm_kind(Isa isa, const GemmJob& job) {
  if (isa == Isa::avx2) return GemmKind::words256;
  if (isa == Isa::avx512 || job.x.type == GemmElem::f32) return GemmKind::words512;
  if (isa == Isa::avx512bf16) return GemmKind::pairs;
  const bool few = job.t <= kGemmStreamRows && !job.x_by_depth && !job.w_by_depth;
  return few && job.w.type != GemmElem::f32 && job.k > 0 ? GemmKind::stream : GemmKind::tiles;
}

GemmCut gemm_cut(const DeviceProps& props, GemmKind kind, const GemmJob& job) {
  if (kind == GemmKind::stream) return cut_stream(job);
  if (kind == GemmKind::tiles) return cut_tiles(props, job);
  const GemmForm form = form_of(kind, job);
  return form == GemmForm::turned ? cut_turned(props, kind, job)
                                  : cut_words(props, kind, form, job);
}

}  // namespace hone::cpu
