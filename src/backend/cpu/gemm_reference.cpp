// gemm and gemm_dw as plain loops: the composite that other paths are tested against, and the path
// of processors without AVX2.
#include <algorithm>

#include "backend/cpu/expand.h"
#include "backend/cpu/gemm_check.h"
#include "backend/desc/gemm.h"

namespace hone::cpu {
namespace {

constexpr int64_t kRows = 16;   // rows of a task
constexpr int64_t kCols = 256;  // columns of a task

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T, class Acc>
void expand_as(const void* data, int64_t count, Acc* out) {
  const T* in = static_cast<const T*>(data);
  for (int64_t i = 0; i < count; ++i) {
    T value;
    __builtin_memcpy(&value, in + i, sizeof(T));
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
      out[i] = static_cast<Acc>(value);
    } else {
      out[i] = static_cast<Acc>(static_cast<float>(value));
    }
  }
}

// count elements from element offset of an array of a dtype.
template <class Acc>
void expand(const void* data, DType type, int64_t offset, int64_t count, Acc* out) {
  const char* p = static_cast<const char*>(data) + offset * static_cast<int64_t>(dtype_size(type));
  switch (type) {
    case DType::f32:
      return expand_as<float>(p, count, out);
    case DType::bf16:
      return expand_as<bf16>(p, count, out);
    case DType::f16:
      return expand_as<f16>(p, count, out);
    case DType::f64:
      return expand_as<double>(p, count, out);
    default:
      return;
  }
}

// As x sees it: backend/format.h.
template <class Acc>
void expand_weight(const WeightView& w, DType x, int64_t row, int64_t col, int64_t count,
                   Acc* out) {
  if (!format_layout(w.format).plain) {
    for (int64_t i = 0; i < count; i += kExpandRun) {
      const int64_t some = std::min(kExpandRun, count - i);
      float run[kExpandRun];
      expand_weight_row(Isa::reference, w, row, col + i, some,
                        x == DType::bf16 ? DType::bf16 : DType::f32, run);
      expand(run, x == DType::bf16 ? DType::bf16 : DType::f32, 0, some, out + i);
    }
    return;
  }
  expand(static_cast<const char*>(w.data) + row * w.stride_bytes, format_dtype(w.format), col,
         count, out);
}

template <class Acc>
void store(const View& y, int64_t row, int64_t col, Acc value) {
  char* p = static_cast<char*>(y.data) +
            (row * y.stride[0] + col) * static_cast<int64_t>(dtype_size(y.dtype));
  if (y.dtype == DType::f64) {
    const double v = static_cast<double>(value);
    __builtin_memcpy(p, &v, sizeof v);
  } else if (y.dtype == DType::f32) {
    const float v = static_cast<float>(value);
    __builtin_memcpy(p, &v, sizeof v);
  } else {
    const bf16 v(static_cast<float>(value));
    __builtin_memcpy(p, &v, sizeof v);
  }
}

// acc[rows][cols] += x[rows, K] op(w); x_buffer [kRows * K], w_buffer [max(K, kCols)].
template <class Acc>
void accumulate(GemmOp op, const View& x, const WeightView& w, int64_t t0, int64_t rows, int64_t n0,
                int64_t cols, Acc* acc, Acc* x_buffer, Acc* w_buffer) {
  const int64_t k_total = x.shape[1];
  for (int64_t t = 0; t < rows; ++t) {
    expand(x.data, x.dtype, (t0 + t) * x.stride[0], k_total, x_buffer + t * k_total);
  }
  if (op == GemmOp::nt) {
    for (int64_t n = 0; n < cols; ++n) {
      expand_weight(w, x.dtype, n0 + n, 0, k_total, w_buffer);
      int64_t t = 0;
      for (; t + 4 <= rows; t += 4) {
        Acc sum[4];
        for (int i = 0; i < 4; ++i) sum[i] = acc[(t + i) * kCols + n];
        const Acc* rows4 = x_buffer + t * k_total;
        for (int64_t k = 0; k < k_total; ++k) {
          for (int i = 0; i < 4; ++i) sum[i] += rows4[i * k_total + k] * w_buffer[k];
        }
        for (int i = 0; i < 4; ++i) acc[(t + i) * kCols + n] = sum[i];
      }
      for (; t < rows; ++t) {
        Acc sum = acc[t * kCols + n];
        for (int64_t k = 0; k < k_total; ++k) sum += x_buffer[t * k_total + k] * w_buffer[k];
        acc[t * kCols + n] = sum;
      }
    }
  } else {
    for (int64_t k = 0; k < k_total; ++k) {
      expand_weight(w, x.dtype, k, n0, cols, w_buffer);
      for (int64_t t = 0; t < rows; ++t) {
        const Acc a = x_buffer[t * k_total + k];
        Acc* row = acc + t * kCols;
        for (int64_t n = 0; n < cols; ++n) row[n] += a * w_buffer[n];
      }
    }
  }
}

int64_t gemm_scratch_elements(const GemmDesc& d) {
  const int64_t k = std::max(gemm_k(d), gemm_rank(d));
  return ceil_div(kRows * kCols + kRows * k + std::max(k, kCols) + kCols, 16) * 16;
}

template <class Acc>
size_t gemm_scratch(const DeviceProps& props, const GemmDesc& d) {
  return static_cast<size_t>(props.threads) * static_cast<size_t>(gemm_scratch_elements(d)) *
         sizeof(Acc);
}

template <class Acc>
Status gemm_run(const KernelCtx& ctx, const GemmDesc& d) {
  if (Status s = check_gemm(d, sizeof(Acc) == 8); !s.ok()) return s;
  if (ctx.scratch_bytes < gemm_scratch<Acc>(*ctx.props, d) ||
      ctx.pool->size() > ctx.props->threads) {
    return {"gemm: scratch too small"};
  }
  const int64_t n_total = gemm_n(d), col_tasks = ceil_div(n_total, kCols);
  for (int g = 0; g < d.groups; ++g) {
    const int64_t begin = gemm_rows_begin(d.row_offsets, g),
                  end = gemm_rows_end(d.row_offsets, g, d.x.shape[0]);
    ctx.pool->run(ceil_div(end - begin, kRows) * col_tasks, [&](int64_t task, int worker) {
      Acc* acc = static_cast<Acc*>(ctx.scratch) + worker * gemm_scratch_elements(d);
      Acc* line = acc + kRows * kCols;
      Acc* w_buffer = line + kCols;
      Acc* x_buffer = w_buffer + std::max({gemm_k(d), gemm_rank(d), kCols});
      const int64_t t0 = begin + task / col_tasks * kRows, rows = std::min(kRows, end - t0);
      const int64_t n0 = task % col_tasks * kCols, cols = std::min(kCols, n_total - n0);
      std::fill_n(acc, kRows * kCols, Acc(0));
      accumulate(d.op, d.x, d.weights[g], t0, rows, n0, cols, acc, x_buffer, w_buffer);
      if (d.alpha != 1) {
        for (int64_t i = 0; i < kRows * kCols; ++i) acc[i] *= static_cast<Acc>(d.alpha);
      }
      if (!d.x2.none())
        accumulate(d.op, d.x2, d.weights2[g], t0, rows, n0, cols, acc, x_buffer, w_buffer);
      if (!d.bias.none()) {
        expand(d.bias.data, d.bias.dtype, n0, cols, line);
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t n = 0; n < cols; ++n) acc[t * kCols + n] += line[n];
        }
      }
      for (int64_t t = 0; t < rows; ++t) {
        Acc* row = acc + t * kCols;
        if (!d.add.none()) {
          expand(d.add.data, d.add.dtype, (t0 + t) * d.add.stride[0] + n0, cols, line);
          for (int64_t n = 0; n < cols; ++n) row[n] += line[n];
        }
        for (int64_t n = 0; n < cols; ++n) store(d.y, t0 + t, n0 + n, row[n]);
      }
    });
  }
  return {};
}

template <class Acc>
size_t gemm_dw_scratch(const DeviceProps& props, const GemmDwDesc&) {
  return static_cast<size_t>(props.threads) * (kRows * kCols + kRows + kCols) * sizeof(Acc);
}

template <class Acc>
Status gemm_dw_run(const KernelCtx& ctx, const GemmDwDesc& d) {
  if (Status s = check_gemm_dw(d, sizeof(Acc) == 8); !s.ok()) return s;
  if (ctx.scratch_bytes < gemm_dw_scratch<Acc>(*ctx.props, d) ||
      ctx.pool->size() > ctx.props->threads) {
    return {"gemm_dw: scratch too small"};
  }
  const int64_t n_total = d.dy.shape[1], k_total = d.x.shape[1],
                col_tasks = ceil_div(k_total, kCols);
  for (int g = 0; g < d.groups; ++g) {
    const int64_t begin = gemm_rows_begin(d.row_offsets, g),
                  end = gemm_rows_end(d.row_offsets, g, d.x.shape[0]);
    if (begin == end) continue;
    ctx.pool->run(ceil_div(n_total, kRows) * col_tasks, [&](int64_t task, int worker) {
      Acc* acc = static_cast<Acc*>(ctx.scratch) + worker * (kRows * kCols + kRows + kCols);
      Acc* dy_line = acc + kRows * kCols;
      Acc* x_line = dy_line + kRows;
      const int64_t n0 = task / col_tasks * kRows, rows = std::min(kRows, n_total - n0);
      const int64_t k0 = task % col_tasks * kCols, cols = std::min(kCols, k_total - k0);
      std::fill_n(acc, kRows * kCols, Acc(0));
      Acc bias[kRows] = {};
      for (int64_t t = begin; t < end; ++t) {
        expand(d.dy.data, d.dy.dtype, t * d.dy.stride[0] + n0, rows, dy_line);
        expand(d.x.data, d.x.dtype, t * d.x.stride[0] + k0, cols, x_line);
        for (int64_t n = 0; n < rows; ++n) {
          bias[n] += dy_line[n];
          for (int64_t k = 0; k < cols; ++k) acc[n * kCols + k] += dy_line[n] * x_line[k];
        }
      }
      const View& dw = d.dw[g];
      for (int64_t n = 0; n < rows; ++n) {
        expand(dw.data, dw.dtype, (n0 + n) * dw.stride[0] + k0, cols, x_line);
        for (int64_t k = 0; k < cols; ++k) {
          store(dw, n0 + n, k0 + k, x_line[k] + static_cast<Acc>(d.alpha) * acc[n * kCols + k]);
        }
      }
      if (!d.dbias.none() && k0 == 0) {
        expand(d.dbias.data, d.dbias.dtype, n0, rows, dy_line);
        for (int64_t n = 0; n < rows; ++n) store(d.dbias, 0, n0 + n, dy_line[n] + bias[n]);
      }
    });
  }
  return {};
}

template <class Acc>
Kernel<GemmDesc> plain() {
  return {.run = gemm_run<Acc>,
          .scratch_bytes = gemm_scratch<Acc>,
          .cost = gemm_cost,
          .row_exact = true};
}

template <class Acc>
Kernel<GemmDwDesc> plain_dw() {
  return {.run = gemm_dw_run<Acc>,
          .scratch_bytes = gemm_dw_scratch<Acc>,
          .cost = gemm_dw_cost,
          .row_exact = false};
}

}  // namespace

Kernel<GemmDesc> gemm_plain(bool f64) { return f64 ? plain<double>() : plain<float>(); }
Kernel<GemmDwDesc> gemm_dw_plain(bool f64) { return f64 ? plain_dw<double>() : plain_dw<float>(); }

}  // namespace hone::cpu
