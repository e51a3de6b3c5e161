// gemm and gemm_dw of the vector paths: cuts a call into groups, chunks of rows and panels of
// columns for a GemmPath. None of these cuts changes a bit: an element is one chain over the depth
// however it is cut.
#include <algorithm>
#include <atomic>
#include <bit>
#include <numeric>
#include <type_traits>

#include "backend/cpu/cpu.h"
#include "backend/cpu/gemm_check.h"
#include "backend/cpu/gemm_tile.h"

namespace hone::cpu {

extern const GemmPath kGemmAvx2, kGemmAvx512, kGemmAvx512Bf16, kGemmAmx;
extern const GemmPath kGemmAvx2Turned, kGemmAvx512Turned, kGemmAvx512Bf16Turned;
extern const GemmNarrowPath kGemmNarrowAvx2, kGemmNarrowAvx512, kGemmNarrowAmx;
extern const GemmStreamPath kGemmStreamAmx;

namespace {

enum class Kind : uint8_t { words256, words512, pairs, tiles, stream };

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

Kind kind_of(Isa isa, const GemmJob& job) {
  if (isa == Isa::avx2) return Kind::words256;
  if (isa == Isa::avx512 || job.x.type == GemmElem::f32) return Kind::words512;
  if (isa == Isa::avx512bf16) return Kind::pairs;
  const bool few = job.t <= kGemmStreamRows && !job.x_by_depth && !job.w_by_depth;
  return few && job.w.type != GemmElem::f32 && job.k > 0 ? Kind::stream : Kind::tiles;
}

// Whether x is packed and w read where it lies (gemm_turned.inl): its words are there, and x is the
// smaller side.
bool is_turned(Kind kind, const GemmJob& job) {
  if (kind == Kind::tiles || kind == Kind::stream || job.x_by_depth || job.w_by_depth) return false;
  const bool words = kind == Kind::pairs ? job.w.type == GemmElem::bf16 && job.k % 2 == 0
                                         : job.w.type == GemmElem::f32;
  return words && job.k > 0 && job.t <= kGemmTurnedRows && job.t <= job.n;
}

const GemmPath& path_of(Kind kind, bool turned) {
  switch (kind) {
    case Kind::words256:
      return turned ? kGemmAvx2Turned : kGemmAvx2;
    case Kind::words512:
      return turned ? kGemmAvx512Turned : kGemmAvx512;
    case Kind::pairs:
      return turned ? kGemmAvx512Bf16Turned : kGemmAvx512Bf16;
    case Kind::tiles:
    case Kind::stream:
      break;
  }
  return kGemmAmx;
}

// How a job is cut; sizes in bytes.
struct Cut {
  int64_t chunk_rows = 0;   // rows prepared together
  int64_t cols = 0;         // of a panel, at most
  int64_t col_unit = 32;    // cuts of columns fall on multiples of it
  int64_t panels = 1;       // the columns are cut into so many, as equal as the unit allows
  int64_t depth_block = 0;  // in the path's unit
  int64_t row_unit = 0;     // cuts of rows fall on multiples of it
  int64_t prepared = 0;     // of a chunk
  int64_t panel = 0;        // scratch of one worker
  int64_t in_place = 0;     // GemmChunk
  int64_t pass_words = 0;   // GemmChunk
  bool turned = false;      // is_turned
};

// Panels of at most so many units, and as many for each thread.
void cut_columns(Cut& c, int64_t n, int64_t most, int64_t threads) {
  const int64_t units = std::max<int64_t>(ceil_div(n, c.col_unit), 1);
  c.panels = std::min(units, round_up(ceil_div(units, most), threads));
  c.cols = c.col_unit * ceil_div(units, c.panels);
}

Cut cut_turned(const DeviceProps& props, Kind kind, const GemmJob& job) {
  Cut c;
  const bool wide = kind != Kind::words256;
  const int64_t strip = wide ? kGemmWordsCols512 : kGemmWordsCols256;
  const int64_t elems = kind == Kind::pairs ? 2 : 1;  // of a word
  const int64_t parts = elems;                        // of x2 and w2
  const int64_t words = ceil_div(job.k, elems), low = ceil_div(job.r, elems);
  c.turned = true;
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

// Most words of a block of w: a tile's rows of x stay in L1 beside it where the depth takes several
// and many rows pass by.
int64_t most_words(bool wide, const GemmJob& job) {
  const bool halved = !wide && job.k > kGemmWordsDepth && job.t > kGemmFewRows;
  return halved ? kGemmWordsDepth / 2 : kGemmWordsDepth;
}

Cut cut_of(const DeviceProps& props, Kind kind, const GemmJob& job) {
  if (is_turned(kind, job)) return cut_turned(props, kind, job);
  Cut c;
  if (kind == Kind::stream) {
    const int64_t total = ceil_div(job.k, kGemmTileStep) + ceil_div(3 * job.r, kGemmTileStep);
    c.cols = job.w.type == GemmElem::bf16t && job.t <= 16 ? kGemmStreamCols : 32;
    c.panel = total * 64 * job.t + kGemmStreamScratch;
    return c;
  }
  if (kind == Kind::tiles) {
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
        static_cast<int64_t>(props.l2_bytes) * 15 / 32 / (c.depth_block * parts * step_bytes), 1,
        16);
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
  const bool wide = kind != Kind::words256;
  const int64_t strip = wide ? kGemmWordsCols512 : kGemmWordsCols256;
  c.row_unit = wide ? kGemmWordsRows512 : kGemmWordsRows256;
  // copies of long rows are made for half as many
  const int64_t chunk = job.k > 2048 && (job.x.type == GemmElem::bf16 || job.x_by_depth)
                            ? kGemmWordsChunk / 2
                            : kGemmWordsChunk;
  c.chunk_rows = round_up(ceil_div(job.t, ceil_div(job.t, chunk)), c.row_unit);
  // few rows: a block of w, read back at once, stays in L1, and is long where w is
  const bool expanded = job.w.type == GemmElem::bf16t;
  const bool few = job.t <= (!expanded ? kGemmFewRows
                             : wide    ? kGemmExpandedRows<true>
                                       : kGemmExpandedRows<false>);
  // narrow w: x passes once
  const bool narrow = kind == Kind::pairs && job.w.type == GemmElem::f32 && job.n <= kGemmBothCols;
  const int64_t most = narrow           ? 4 * kGemmWordsDepth
                       : !few           ? most_words(wide, job)
                       : job.w_by_depth ? 32
                                        : kGemmWordsFewDepth;
  const int64_t words = std::max<int64_t>(kind == Kind::pairs ? ceil_div(job.k, 2) : job.k, 1);
  c.depth_block = std::min(round_up(ceil_div(words, ceil_div(words, most)), 32), most);
  c.col_unit = strip;
  // else a block of w fills half of L2
  const int64_t in_l2 = static_cast<int64_t>(props.l2_bytes) / 2 / (c.depth_block * strip * 4);
  const int64_t most_strips = !few             ? std::clamp<int64_t>(in_l2, 1, 8)
                              : job.w_by_depth ? 8
                              : expanded       ? 16
                                               : 1;
  cut_columns(c, job.n, most_strips, props.threads);
  if (kind == Kind::pairs) {
    const bool in_place = !job.x_by_depth && job.k % 2 == 0;
    c.prepared = c.chunk_rows * 4 * ((in_place ? 0 : ceil_div(job.k, 2)) + 2 * ceil_div(job.r, 2));
  } else {
    c.prepared = job.x.type == GemmElem::bf16 || job.x_by_depth ? c.chunk_rows * job.k * 4 : 0;
  }
  c.prepared = round_up(c.prepared, 64);
  if (few && expanded) c.depth_block = kGemmWordsFewDepth;
  // the low-rank words are packed with the product's last block
  const int64_t low = kind == Kind::pairs ? 3 * ceil_div(job.r, 2) : job.r;
  c.pass_words = c.depth_block + (low <= 256 ? low : 0);
  c.panel = (c.pass_words * c.cols + (c.depth_block + 16) * c.row_unit + c.chunk_rows * c.cols) * 4;
  c.panel = round_up(c.panel, 64);
  return c;
}

size_t scratch_of(const DeviceProps& props, Kind kind, const GemmJob& job) {
  const Cut c = cut_of(props, kind, job);
  return static_cast<size_t>(c.prepared + c.panel * props.threads);
}

void run_job(const KernelCtx& ctx, Kind kind, const GemmJob& job, const Cut& c) {
  if (job.n == 0) return;
  char* panels = static_cast<char*>(ctx.scratch) + c.prepared;
  if (kind == Kind::stream) {
    // A task packs x and takes panels as long as there are some, smaller and smaller: long ones are
    // read fastest, short ones at the end let all threads finish together.
    std::atomic<int64_t> next{0};
    const int64_t threads = ctx.pool->size();
    ctx.pool->run(std::min(ceil_div(job.n, c.cols), threads), [&](int64_t, int worker) {
      char* scratch = panels + c.panel * worker;
      bool prepared = false;
      for (int64_t n = next.load(); n < job.n;) {
        const int64_t cols =
            std::min(round_up(ceil_div(job.n - n, 2 * threads), c.cols), job.n - n);
        if (!next.compare_exchange_weak(n, n + cols)) continue;
        if (!prepared) kGemmStreamAmx.prepare(&job, scratch);
        prepared = true;
        kGemmStreamAmx.panel(&job, n, cols, scratch);
        n = next.load();
      }
    });
    return;
  }
  const GemmPath& path = path_of(kind, c.turned);
  for (int64_t begin = 0; begin < job.t; begin += c.chunk_rows) {
    const GemmChunk chunk = {begin,
                             std::min(c.chunk_rows, job.t - begin),
                             c.prepared > 0 ? ctx.scratch : nullptr,
                             c.in_place,
                             c.pass_words,
                             c.cols * ctx.pool->size()};
    if (c.prepared > 0) {
      const int64_t unit = round_up(32, c.row_unit);
      ctx.pool->run(ceil_div(chunk.rows, unit), [&](int64_t task, int) {
        path.prepare(&job, &chunk, begin + task * unit, std::min(unit, chunk.rows - task * unit));
      });
    }
    // the wider panels first, so that threads end together
    const int64_t units = ceil_div(job.n, c.col_unit);
    const auto first_column = [&](int64_t panel) {
      return (panel * (units / c.panels) + std::min(panel, units % c.panels)) * c.col_unit;
    };
    int64_t rows = chunk.rows;
    if (c.panels < ctx.pool->size()) {
      const int64_t parts = ceil_div(ctx.pool->size(), c.panels);
      rows = std::min(
          rows, std::max(round_up(64, c.row_unit), round_up(ceil_div(rows, parts), c.row_unit)));
    }
    const int64_t row_tasks = ceil_div(chunk.rows, rows);
    ctx.pool->run(c.panels * row_tasks, [&](int64_t task, int worker) {
      const int64_t t = task % row_tasks * rows, panel = task / row_tasks;
      const int64_t n = first_column(panel), end = std::min(job.n, first_column(panel + 1));
      path.panel(&job, &chunk, begin + t, std::min(rows, chunk.rows - t), n, end - n, c.depth_block,
                 panels + c.panel * worker);
    });
  }
}

GemmElem elem(DType t) { return t == DType::f32 ? GemmElem::f32 : GemmElem::bf16; }
GemmElem elem(Format f) {
  switch (f) {
    case Format::bf16:
      return GemmElem::bf16;
    case Format::f16:
      return GemmElem::f16;
    case Format::bf16t:
      return GemmElem::bf16t;
    default:
      return GemmElem::f32;
  }
}

GemmMatrix rows_of(const View& v, int64_t begin, int64_t end) {
  if (v.none()) return {};
  const int64_t size = static_cast<int64_t>(dtype_size(v.dtype)), stride = v.stride[0] * size;
  return {static_cast<const char*>(v.data) + begin * stride, end - begin, v.shape[1], stride,
          elem(v.dtype)};
}

GemmMatrix matrix(const WeightView& w) {
  return {w.data, w.rows, w.cols, w.stride_bytes, elem(w.format)};
}

GemmJob job_of(const GemmDesc& d, int group, int64_t begin, int64_t end) {
  GemmJob job = {};
  job.x = rows_of(d.x, begin, end);
  job.w = matrix(d.weights[group]);
  job.x2 = rows_of(d.x2, begin, end);
  if (d.weights2) job.w2 = matrix(d.weights2[group]);
  if (!d.bias.none()) job.bias = {d.bias.data, 1, gemm_n(d), 0, elem(d.bias.dtype)};
  job.add = rows_of(d.add, begin, end);
  job.y = rows_of(d.y, begin, end);
  job.t = end - begin;
  job.n = gemm_n(d);
  job.k = gemm_k(d);
  job.r = gemm_rank(d);
  job.alpha = d.alpha;
  job.w_by_depth = d.op == GemmOp::nn;
  return job;
}

// dw[n, k] = alpha * sum_t dy[t, n] x[t, k] + dw: rows of dw are the rows, t the depth.
GemmJob job_of(const GemmDwDesc& d, int group, int64_t begin, int64_t end) {
  GemmJob job = {};
  job.x = rows_of(d.dy, begin, end);
  job.w = rows_of(d.x, begin, end);
  job.y = job.add = rows_of(d.dw[group], 0, d.dw[group].shape[0]);
  job.t = d.dy.shape[1];
  job.n = d.x.shape[1];
  job.k = end - begin;
  job.alpha = d.alpha;
  job.x_by_depth = job.w_by_depth = true;
  return job;
}

// One side of the gradient is narrow: a kernel of its own. It is the fp32 side beside a bf16 one,
// or else the much narrower one.
enum class Narrow : uint8_t { none, dy, x };
Narrow narrow_side(const GemmDwDesc& d) {
  const int64_t dy = d.dy.shape[1], x = d.x.shape[1];
  const auto narrow = [](const View& v) {
    return v.dtype == DType::f32 && v.shape[1] <= kGemmNarrow;
  };
  if (d.dy.dtype != d.x.dtype && narrow(d.dy)) return Narrow::dy;
  if (d.dy.dtype != d.x.dtype && narrow(d.x)) return Narrow::x;
  if (dy <= kGemmNarrow && x >= 4 * dy) return Narrow::dy;
  return x <= kGemmNarrow && dy >= 4 * x ? Narrow::x : Narrow::none;
}

GemmNarrowJob narrow_job_of(const GemmDwDesc& d, int group, int64_t begin, int64_t end) {
  const bool by_wide = narrow_side(d) == Narrow::x;
  GemmNarrowJob job = {};
  job.narrow = rows_of(by_wide ? d.x : d.dy, begin, end);
  job.wide = rows_of(by_wide ? d.dy : d.x, begin, end);
  job.out = rows_of(d.dw[group], 0, d.dw[group].shape[0]);
  job.t = end - begin;
  job.r = job.narrow.cols;
  job.w = job.wide.cols;
  job.alpha = d.alpha;
  job.by_wide = by_wide;
  return job;
}

const GemmNarrowPath& narrow_path(Isa isa, const GemmNarrowJob& job) {
  if (isa == Isa::avx2) return kGemmNarrowAvx2;
  const bool tiles = job.narrow.type == GemmElem::f32 && job.wide.type == GemmElem::bf16;
  return isa == Isa::amx && tiles ? kGemmNarrowAmx : kGemmNarrowAvx512;
}

// Tiles of the narrow side.
int64_t narrow_prepared_bytes(const GemmNarrowPath& path, const GemmNarrowJob& job) {
  if (path.prepare == nullptr) return 0;
  return ceil_div(job.t, kGemmTileStep) * ceil_div(2 * job.r, 16) * 1024;
}

void run_narrow_job(const KernelCtx& ctx, const GemmNarrowPath& path, const GemmNarrowJob& job) {
  constexpr int64_t kSteps = 8;
  const int64_t steps = ceil_div(job.t, kGemmTileStep);
  if (path.prepare != nullptr) {
    ctx.pool->run(ceil_div(steps, kSteps), [&](int64_t task, int) {
      path.prepare(&job, task * kSteps, std::min(kSteps, steps - task * kSteps), ctx.scratch);
    });
  }
  char* scratch = static_cast<char*>(ctx.scratch) + narrow_prepared_bytes(path, job);
  // as many panels for each thread
  const int64_t panels = round_up(ceil_div(job.w, kGemmNarrowCols), ctx.pool->size());
  const int64_t cols = round_up(ceil_div(job.w, panels), 64);
  ctx.pool->run(ceil_div(job.w, cols), [&](int64_t task, int worker) {
    const int64_t w = task * cols;
    path.panel(&job, ctx.scratch, w, std::min(cols, job.w - w),
               scratch + worker * kGemmNarrowScratch);
  });
}

template <class Desc>
int64_t rows_total(const Desc& d) {
  return d.x.shape[0];
}

// Calls fn(job) for each group with rows.
template <class Desc, class Fn>
void for_groups(const Desc& d, Fn fn) {
  for (int g = 0; g < d.groups; ++g) {
    const int64_t begin = gemm_rows_begin(d.row_offsets, g);
    const int64_t end = gemm_rows_end(d.row_offsets, g, rows_total(d));
    if (begin < end) fn(job_of(d, g, begin, end));
  }
}

template <Isa isa, class Desc>
size_t scratch(const DeviceProps& props, const Desc& d) {
  size_t most = 0;
  if constexpr (std::is_same_v<Desc, GemmDwDesc>) {
    if (narrow_side(d) != Narrow::none) {
      for (int g = 0; g < d.groups; ++g) {
        const int64_t begin = gemm_rows_begin(d.row_offsets, g);
        const GemmNarrowJob job =
            narrow_job_of(d, g, begin, gemm_rows_end(d.row_offsets, g, rows_total(d)));
        most =
            std::max(most, static_cast<size_t>(narrow_prepared_bytes(narrow_path(isa, job), job) +
                                               kGemmNarrowScratch * props.threads));
      }
      return most;
    }
  }
  for_groups(d, [&](const GemmJob& job) {
    most = std::max(most, scratch_of(props, kind_of(isa, job), job));
  });
  return most;
}

template <Isa isa>
Status run_gemm(const KernelCtx& ctx, const GemmDesc& d) {
  if (Status s = check_gemm(d, false, takes_bf16t(isa)); !s.ok()) return s;
  if (ctx.pool->size() > ctx.props->threads) return {"gemm: more threads than planned"};
  if (ctx.scratch_bytes < scratch<isa>(*ctx.props, d)) return {"gemm: scratch too small"};
  for_groups(d, [&](const GemmJob& job) {
    const Kind kind = kind_of(isa, job);
    run_job(ctx, kind, job, cut_of(*ctx.props, kind, job));
  });
  return {};
}

// dbias += column sums of dy, in order.
void add_column_sums(const KernelCtx& ctx, const View& dy, const View& dbias) {
  constexpr int64_t kCols = 64;
  const int64_t n_total = dy.shape[1];
  ctx.pool->run(ceil_div(n_total, kCols), [&](int64_t task, int) {
    const int64_t n0 = task * kCols, cols = std::min(kCols, n_total - n0);
    float sum[kCols] = {};
    for (int64_t t = 0; t < dy.shape[0]; ++t) {
      const char* row = static_cast<const char*>(dy.data) +
                        (t * dy.stride[0] + n0) * static_cast<int64_t>(dtype_size(dy.dtype));
      if (dy.dtype == DType::bf16) {
        uint16_t bits[kCols] = {};
        __builtin_memcpy(bits, row, static_cast<size_t>(cols) * 2);
        for (int64_t n = 0; n < kCols; ++n)
          sum[n] += std::bit_cast<float>(static_cast<uint32_t>(bits[n]) << 16);
      } else {
        float values[kCols] = {};
        __builtin_memcpy(values, row, static_cast<size_t>(cols) * 4);
        for (int64_t n = 0; n < kCols; ++n) sum[n] += values[n];
      }
    }
    for (int64_t n = 0; n < cols; ++n) dbias.as<float>()[(n0 + n)] += sum[n];
  });
}

template <Isa isa>
Status run_gemm_dw(const KernelCtx& ctx, const GemmDwDesc& d) {
  if (Status s = check_gemm_dw(d, false); !s.ok()) return s;
  if (ctx.pool->size() > ctx.props->threads) return {"gemm_dw: more threads than planned"};
  if (ctx.scratch_bytes < scratch<isa>(*ctx.props, d)) return {"gemm_dw: scratch too small"};
  if (narrow_side(d) != Narrow::none) {
    for (int g = 0; g < d.groups; ++g) {
      const int64_t begin = gemm_rows_begin(d.row_offsets, g),
                    end = gemm_rows_end(d.row_offsets, g, rows_total(d));
      if (begin == end) continue;
      const GemmNarrowJob job = narrow_job_of(d, g, begin, end);
      run_narrow_job(ctx, narrow_path(isa, job), job);
    }
  } else {
    for_groups(d, [&](const GemmJob& job) {
      const Kind kind = kind_of(isa, job);
      run_job(ctx, kind, job, cut_of(*ctx.props, kind, job));
    });
  }
  if (!d.dbias.none()) add_column_sums(ctx, d.dy, d.dbias);
  return {};
}

template <Isa isa>
Kernel<GemmDesc> vector_gemm() {
  return {.run = run_gemm<isa>,
          .scratch_bytes = scratch<isa, GemmDesc>,
          .cost = gemm_cost,
          .row_exact = true};
}

template <Isa isa>
Kernel<GemmDwDesc> vector_gemm_dw() {
  return {.run = run_gemm_dw<isa>,
          .scratch_bytes = scratch<isa, GemmDwDesc>,
          .cost = gemm_dw_cost,
          .row_exact = false};
}

}  // namespace

Kernel<GemmDesc> gemm(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return vector_gemm<Isa::avx2>();
    case Isa::avx512:
      return vector_gemm<Isa::avx512>();
    case Isa::avx512bf16:
      return vector_gemm<Isa::avx512bf16>();
    case Isa::amx:
      return vector_gemm<Isa::amx>();
    default:
      return gemm_plain(isa == Isa::reference);
  }
}

Kernel<GemmDwDesc> gemm_dw(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return vector_gemm_dw<Isa::avx2>();
    case Isa::avx512:
      return vector_gemm_dw<Isa::avx512>();
    case Isa::avx512bf16:
      return vector_gemm_dw<Isa::avx512bf16>();
    case Isa::amx:
      return vector_gemm_dw<Isa::amx>();
    default:
      return gemm_dw_plain(isa == Isa::reference);
  }
}

}  // namespace hone::cpu
