// gemm and gemm_dw of the vector paths: cuts a call into groups, chunks of rows and panels of
// columns for a GemmPath. None of these cuts changes a bit: an element is one chain over the depth
// however it is cut.
#include <algorithm>
#include <atomic>
#include <bit>
#include <type_traits>

#include "backend/cpu/cpu.h"
#include "backend/cpu/expand.h"
#include "backend/cpu/gemm_check.h"
#include "backend/cpu/gemm_cut.h"

namespace hone::cpu {

extern const GemmPath kGemmAvx2, kGemmAvx512, kGemmAvx512Bf16, kGemmAmx;
extern const GemmPath kGemmAvx2Turned, kGemmAvx512Turned, kGemmAvx512Bf16Turned;
extern const GemmPath kGemmAvx2Expanded, kGemmAvx512Expanded, kGemmAvx512Bf16Expanded;
extern const GemmPath kGemmAvx2Squares;
extern const GemmNarrowPath kGemmNarrowAvx2, kGemmNarrowAvx512, kGemmNarrowAmx;
extern const GemmStreamPath kGemmStreamAmx;

namespace {

const GemmPath& path_of(GemmKind kind, GemmForm form) {
  const auto of = [form](const GemmPath& packed, const GemmPath& turned,
                         const GemmPath& expanded) -> const GemmPath& {
    return form == GemmForm::turned ? turned : form == GemmForm::expanded ? expanded : packed;
  };
  switch (kind) {
    case GemmKind::words256:
      if (form == GemmForm::squares) return kGemmAvx2Squares;
      return of(kGemmAvx2, kGemmAvx2Turned, kGemmAvx2Expanded);
    case GemmKind::words512:
      return of(kGemmAvx512, kGemmAvx512Turned, kGemmAvx512Expanded);
    case GemmKind::pairs:
      return of(kGemmAvx512Bf16, kGemmAvx512Bf16Turned, kGemmAvx512Bf16Expanded);
    case GemmKind::tiles:
    case GemmKind::stream:
      break;
  }
  return kGemmAmx;
}

// A group of a call. packed: the weight, if its format is one that kernels don't know; w then has
// the shape and the stride of its columns as expanded, a panel at a time.
struct GroupJob : GemmJob {
  const WeightView* packed = nullptr;
};

// A worker's expanded columns take about so much at most, but hold at least a unit of columns.
constexpr int64_t kExpandedBytes = 512 << 10;

// From a row to the next of so many expanded numbers: whole lines, an odd number of them, so that
// rows spread over a cache's sets.
int64_t expanded_stride(int64_t numbers, GemmElem type) {
  return (ceil_div(numbers * (type == GemmElem::bf16 ? 2 : 4), 64) | 1) * 64;
}

GemmCut cut_of(const DeviceProps& props, GemmKind kind, const GroupJob& job) {
  GemmCut c = gemm_cut(props, kind, job);
  if (job.packed == nullptr) return c;
  const int64_t unit = kind == GemmKind::stream ? c.cols : c.col_unit;
  const int64_t unit_bytes = unit * expanded_stride(job.k, job.w.type);
  const int64_t units = ceil_div(job.n, unit),
                most = std::max<int64_t>(kExpandedBytes / unit_bytes, 1);
  c.panels = std::max(c.panels, ceil_div(units, most));
  c.cols = std::min(c.cols, unit * ceil_div(units, c.panels));
  c.expanded = job.w_by_depth ? job.k * expanded_stride(c.cols, job.w.type)
                              : c.cols * expanded_stride(job.k, job.w.type);
  return c;
}

// Expands columns [n0, n0 + cols) of job's weight to `to`; the job that finds them there.
GemmJob expand_columns(Isa isa, const GroupJob& job, int64_t n0, int64_t cols, char* to) {
  GemmJob here = job;
  const DType as = job.w.type == GemmElem::bf16 ? DType::bf16 : DType::f32;
  const int64_t size = static_cast<int64_t>(dtype_size(as));
  const int64_t rows = job.w_by_depth ? job.k : cols, numbers = job.w_by_depth ? cols : job.k;
  here.w.stride = expanded_stride(numbers, job.w.type);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = job.w_by_depth ? i : n0 + i, col = job.w_by_depth ? n0 : 0;
    expand_weight_row(isa, *job.packed, row, col, numbers, as, to + i * here.w.stride);
  }
  // as if the columns before lay there too
  const int64_t before = n0 * (job.w_by_depth ? size : here.w.stride);
  here.w.data = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(to) -
                                              static_cast<uintptr_t>(before));
  return here;
}

size_t scratch_of(const DeviceProps& props, GemmKind kind, const GroupJob& job) {
  const GemmCut c = cut_of(props, kind, job);
  return static_cast<size_t>(c.prepared + (c.panel + c.expanded) * props.threads);
}

void run_job(const KernelCtx& ctx, Isa isa, GemmKind kind, const GroupJob& job, const GemmCut& c) {
  if (job.n == 0) return;
  char* panels = static_cast<char*>(ctx.scratch) + c.prepared;
  char* expanded = panels + c.panel * ctx.pool->size();
  // fn(the job as kernels take it) for columns [n0, n0 + cols)
  const auto with_columns = [&](int64_t n0, int64_t cols, int worker, auto fn) {
    if (job.packed == nullptr) return fn(static_cast<const GemmJob*>(&job));
    const GemmJob here = expand_columns(isa, job, n0, cols, expanded + c.expanded * worker);
    fn(&here);
  };
  if (kind == GemmKind::stream) {
    // A task packs x and takes panels as long as there are some, smaller and smaller: long ones are
    // read fastest, short ones at the end let all threads finish together.
    std::atomic<int64_t> next{0};
    const int64_t threads = ctx.pool->size();
    ctx.pool->run(std::min(ceil_div(job.n, c.cols), threads), [&](int64_t, int worker) {
      char* scratch = panels + c.panel * worker;
      bool prepared = false;
      for (int64_t n = next.load(); n < job.n;) {
        const int64_t most =
            job.packed != nullptr ? c.cols : round_up(ceil_div(job.n - n, 2 * threads), c.cols);
        const int64_t cols = std::min(most, job.n - n);
        if (!next.compare_exchange_weak(n, n + cols)) continue;
        if (!prepared) kGemmStreamAmx.prepare(&job, scratch);
        prepared = true;
        with_columns(n, cols, worker,
                     [&](const GemmJob* j) { kGemmStreamAmx.panel(j, n, cols, scratch); });
        n = next.load();
      }
    });
    return;
  }
  const GemmPath& path = path_of(kind, c.form);
  for (int64_t begin = 0; begin < job.t; begin += c.chunk_rows) {
    const GemmChunk chunk = {.begin = begin,
                             .rows = std::min(c.chunk_rows, job.t - begin),
                             .prepared = c.prepared > 0 ? ctx.scratch : nullptr,
                             .in_place = c.in_place,
                             .depth_block = c.depth_block,
                             .pass_words = c.pass_words,
                             // nothing lies there yet of an expanded w
                             .next_panel = job.packed ? job.n : c.cols * ctx.pool->size(),
                             .block_rows = c.block_rows,
                             .groups = c.groups};
    if (c.prepared > 0) {
      // rows of an x by depth lie beside each other: long pieces of lines, but several for a thread
      const int64_t most = ceil_div(chunk.rows, 4 * ctx.pool->size());
      const int64_t unit = round_up(
          job.x_by_depth ? std::clamp<int64_t>(most, 32, 48 * c.row_unit) : 32, c.row_unit);
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
      with_columns(n, end - n, worker, [&](const GemmJob* j) {
        path.panel(j, &chunk, begin + t, std::min(rows, chunk.rows - t), n, end - n,
                   panels + c.panel * worker);
      });
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

// Whether kernels take w where it lies.
bool as_it_lies(const GemmDesc& d, const WeightView& w) {
  return format_layout(w.format).plain || (w.format == Format::bf16t && d.op == GemmOp::nt);
}

GroupJob job_of(const GemmDesc& d, int group, int64_t begin, int64_t end) {
  GroupJob job = {};
  job.x = rows_of(d.x, begin, end);
  const WeightView& w = d.weights[group];
  if (as_it_lies(d, w)) {
    job.w = matrix(w);
  } else {
    job.packed = &w;
    job.w = {nullptr, w.rows, w.cols, expanded_stride(w.cols, elem(d.x.dtype)), elem(d.x.dtype)};
  }
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
GroupJob job_of(const GemmDwDesc& d, int group, int64_t begin, int64_t end) {
  GroupJob job = {};
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
  for_groups(d, [&](const GroupJob& job) {
    most = std::max(most, scratch_of(props, gemm_kind(isa, job), job));
  });
  return most;
}

template <Isa isa>
Status run_gemm(const KernelCtx& ctx, const GemmDesc& d) {
  if (Status s = check_gemm(d, false); !s.ok()) return s;
  if (ctx.pool->size() > ctx.props->threads) return {"gemm: more threads than planned"};
  if (ctx.scratch_bytes < scratch<isa>(*ctx.props, d)) return {"gemm: scratch too small"};
  for_groups(d, [&](const GroupJob& job) {
    const GemmKind kind = gemm_kind(isa, job);
    run_job(ctx, isa, kind, job, cut_of(*ctx.props, kind, job));
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
    for_groups(d, [&](const GroupJob& job) {
      const GemmKind kind = gemm_kind(isa, job);
      run_job(ctx, isa, kind, job, cut_of(*ctx.props, kind, job));
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
