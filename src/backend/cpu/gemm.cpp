// gemm and gemm_dw of the vector paths: what a call's groups are (gemm_run.h computes them), and
// weight gradients with a narrow side.
#include <algorithm>
#include <bit>

#include "backend/cpu/cpu.h"
#include "backend/cpu/gemm_check.h"
#include "backend/cpu/gemm_run.h"
#include "backend/desc/gemm.h"

namespace hone::cpu {

extern const GemmNarrowPath kGemmNarrowAvx2, kGemmNarrowAvx512, kGemmNarrowAmx;

namespace {

GemmElem elem(DType t) {
  return t == DType::bf16 ? GemmElem::bf16 : t == DType::f16 ? GemmElem::f16 : GemmElem::f32;
}

GemmMatrix rows_of(const View& v, int64_t begin, int64_t end) {
  if (v.none()) return {};
  const int64_t size = static_cast<int64_t>(dtype_size(v.dtype)), stride = v.stride[0] * size;
  return {static_cast<const char*>(v.data) + begin * stride, end - begin, v.shape[1], stride,
          elem(v.dtype)};
}

GemmMatrix matrix(const WeightView& w) {
  return {w.data,
          w.rows,
          w.cols,
          w.stride_bytes,
          elem(format_dtype(w.format)),
          format_ops(w.format).strips};
}

// Whether kernels take w where it lies.
bool as_it_lies(const GemmDesc& d, const WeightView& w) {
  return format_layout(w.format).plain || (format_ops(w.format).strips && d.op == GemmOp::nt);
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

// Tiles of the narrow side of a group lie from step begin / kGemmTileStep + group on, which leaves
// each as many as it needs.
int64_t narrow_steps_before(int64_t begin, int group) { return begin / kGemmTileStep + group; }
int64_t narrow_step_bytes(const GemmNarrowPath& path, const GemmNarrowJob& job) {
  return path.prepare == nullptr ? 0 : ceil_div(2 * job.r, 16) * 1024;
}
int64_t narrow_prepared_bytes(const GemmNarrowPath& path, const GemmNarrowJob& job, int groups) {
  return narrow_steps_before(job.t, groups) * narrow_step_bytes(path, job);
}

// All groups together. all: the rows of all groups as one job.
void run_narrow(const KernelCtx& ctx, const GemmNarrowPath& path, const GemmDwDesc& d,
                const GemmNarrowJob& all) {
  constexpr int64_t kSteps = 8;
  char* prepared = static_cast<char*>(ctx.scratch);
  const auto with_group = [&](int64_t group, auto fn) {
    const int g = static_cast<int>(group);
    const int64_t begin = gemm_rows_begin(d.row_offsets, g),
                  end = gemm_rows_end(d.row_offsets, g, d.x.shape[0]);
    if (begin == end) return;
    fn(narrow_job_of(d, g, begin, end),
       prepared + narrow_steps_before(begin, g) * narrow_step_bytes(path, all));
  };
  if (path.prepare != nullptr) {
    const int64_t tasks = ceil_div(ceil_div(all.t, kGemmTileStep), kSteps);  // of a group, at most
    ctx.pool->run(d.groups * tasks, [&](int64_t task, int) {
      with_group(task / tasks, [&](const GemmNarrowJob& job, void* to) {
        const int64_t first = task % tasks * kSteps, steps = ceil_div(job.t, kGemmTileStep);
        if (first < steps) path.prepare(&job, first, std::min(kSteps, steps - first), to);
      });
    });
  }
  char* scratch = prepared + narrow_prepared_bytes(path, all, d.groups);
  // as many panels for each thread
  const int64_t panels = round_up(ceil_div(all.w, kGemmNarrowCols), ctx.pool->size());
  const int64_t cols = round_up(ceil_div(all.w, panels), 64), tasks = ceil_div(all.w, cols);
  ctx.pool->run(d.groups * tasks, [&](int64_t task, int worker) {
    with_group(task / tasks, [&](const GemmNarrowJob& job, const void* from) {
      const int64_t w = task % tasks * cols;
      path.panel(&job, from, w, std::min(cols, job.w - w), scratch + worker * kGemmNarrowScratch);
    });
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

template <Isa isa>
size_t scratch(const DeviceProps& props, const GemmDesc& d) {
  return groups_scratch(isa, props, [&](auto fn) { for_groups(d, fn); });
}

template <Isa isa>
size_t scratch(const DeviceProps& props, const GemmDwDesc& d) {
  if (narrow_side(d) == Narrow::none)
    return groups_scratch(isa, props, [&](auto fn) { for_groups(d, fn); });
  const GemmNarrowJob all = narrow_job_of(d, 0, 0, d.x.shape[0]);
  return static_cast<size_t>(narrow_prepared_bytes(narrow_path(isa, all), all, d.groups) +
                             kGemmNarrowScratch * props.threads);
}

template <Isa isa>
Status run_gemm(const KernelCtx& ctx, const GemmDesc& d) {
  if (Status s = check_gemm(d, false); !s.ok()) return s;
  if (ctx.pool->size() > ctx.props->threads) return {"gemm: more threads than planned"};
  if (ctx.scratch_bytes < scratch<isa>(*ctx.props, d)) return {"gemm: scratch too small"};
  run_groups(isa, ctx, [&](auto fn) { for_groups(d, fn); });
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
    const GemmNarrowJob all = narrow_job_of(d, 0, 0, d.x.shape[0]);
    run_narrow(ctx, narrow_path(isa, all), d, all);
  } else {
    run_groups(isa, ctx, [&](auto fn) { for_groups(d, fn); });
  }
  if (!d.dbias.none()) add_column_sums(ctx, d.dy, d.dbias);
  return {};
}

template <Isa isa>
Kernel<GemmDesc> vector_gemm() {
  return {
      .run = run_gemm<isa>, .scratch_bytes = scratch<isa>, .cost = gemm_cost, .row_exact = true};
}

template <Isa isa>
Kernel<GemmDwDesc> vector_gemm_dw() {
  return {.run = run_gemm_dw<isa>,
          .scratch_bytes = scratch<isa>,
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
