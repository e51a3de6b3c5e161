// Weight gradients with one narrow side on the vector paths: in fp32, the wide side is read once, a
// block of rows at a time, and expanded in registers. Included inside an anonymous namespace after
// gemm_vec.inl.

constexpr int kNarrowRows = kLanes == 16 ? 8 : 4;  // columns of the narrow side in registers
constexpr int64_t kNarrowBlock = 32;               // rows of both sides

// sums[R][sums_stride] (+)= narrowᵀ wide over rows, for R columns of narrow and 2 kLanes of wide.
// What lies ahead bytes behind a row of wide is fetched.
struct NarrowTile {
  const float* narrow;
  int64_t narrow_stride;
  const char* wide;
  int64_t wide_stride, ahead;
  GemmElem type;  // of wide
  int64_t rows;
  float* sums;
  int64_t sums_stride;
  bool go_on;
};
template <int R>
void multiply_narrow(const NarrowTile& tile) {
  Vec acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    acc[r][0] = tile.go_on ? load(tile.sums + r * tile.sums_stride) : zero();
    acc[r][1] = tile.go_on ? load(tile.sums + r * tile.sums_stride + kLanes) : zero();
  }
  const int64_t half = kLanes * elem_bytes(tile.type), narrow_stride = tile.narrow_stride,
                wide_stride = tile.wide_stride, ahead = tile.ahead, rows = tile.rows;
  const float* narrow = tile.narrow;
  const char* wide = tile.wide;
  const auto run = [&](auto expand_one) __attribute__((always_inline)) {
    for (int64_t t = 0; t < rows; ++t) {
      const char* w = wide + t * wide_stride;
      const Vec first = expand_one(w), second = expand_one(w + half);
      _mm_prefetch(w + ahead, _MM_HINT_T1);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec n = splat(narrow[t * narrow_stride + r]);
        acc[r][0] = fma(n, first, acc[r][0]);
        acc[r][1] = fma(n, second, acc[r][1]);
      }
    }
  };
  if (tile.type == GemmElem::bf16) {
    run([](const char* p) __attribute__((always_inline)) { return expand_bf16(p); });
  } else {
    run([](const char* p)
            __attribute__((always_inline)) { return load(reinterpret_cast<const float*>(p)); });
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    store(tile.sums + r * tile.sums_stride, acc[r][0]);
    store(tile.sums + r * tile.sums_stride + kLanes, acc[r][1]);
  }
}

using MultiplyNarrow = void (*)(const NarrowTile&);
struct NarrowRows {
  MultiplyNarrow of[kNarrowRows];  // r columns: of[r - 1]
};
template <int... R>
constexpr NarrowRows narrow_rows(std::integer_sequence<int, R...>) {
  return {{multiply_narrow<R + 1>...}};
}
constexpr NarrowRows kNarrow = narrow_rows(std::make_integer_sequence<int, kNarrowRows>());

// out row(s) of columns [w0, w0 + cols) += alpha * sums[r][stride].
void add_sums(const GemmNarrowJob& job, const float* sums, int64_t stride, int64_t w0,
              int64_t cols) {
  const Vec alpha = splat(job.alpha);
  const auto add_to = [&](char* out, Vec v, int64_t count) {
    float line[kLanes] = {};
    __builtin_memcpy(line, out, static_cast<size_t>(count) * 4);
    store(line, fma(alpha, v, load(line)));
    __builtin_memcpy(out, line, static_cast<size_t>(count) * 4);
  };
  if (!job.by_wide) {
    for (int64_t r = 0; r < job.r; ++r) {
      for (int64_t w = 0; w < cols; w += kLanes)
        add_to(const_cast<char*>(at(job.out, r, w0 + w)), load(sums + r * stride + w),
               min_of<int64_t>(kLanes, cols - w));
    }
    return;
  }
  for (int64_t r = 0; r < job.r; r += kLanes) {
    const int64_t count = min_of<int64_t>(kLanes, job.r - r);
    for (int64_t w = 0; w < cols; w += kLanes) {
      Vec v[kLanes];
      for (int64_t i = 0; i < kLanes; ++i)
        v[i] = i < count ? load(sums + (r + i) * stride + w) : zero();
      float square[kLanes * kLanes];
      transpose(v, square, kLanes);
      for (int64_t i = 0; i < min_of<int64_t>(kLanes, cols - w); ++i)
        add_to(const_cast<char*>(at(job.out, w0 + w + i, r)), load(square + i * kLanes), count);
    }
  }
}

// scratch: sums [r][cols, padded], then a block of the narrow side, [kNarrowBlock][r, padded], and
// of columns behind the last whole 2 kLanes.
void panel_narrow(const GemmNarrowJob* job, const void*, int64_t w0, int64_t cols, void* scratch) {
  constexpr int64_t kCols = 2 * kLanes;
  const int64_t stride = (cols + kCols - 1) / kCols * kCols;
  const int64_t narrow_stride = (job->r + kLanes - 1) / kLanes * kLanes;
  float* sums = static_cast<float*>(scratch);
  float* narrow = sums + job->r * stride;
  char* rest = reinterpret_cast<char*>(narrow + kNarrowBlock * narrow_stride);
  const GemmMatrix& wide = job->wide;
  const int64_t bytes = elem_bytes(wide.type);
  for (int64_t t = 0; t < job->t; t += kNarrowBlock) {
    const int64_t rows = min_of(kNarrowBlock, job->t - t);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t r = 0; r < job->r; r += kLanes)
        store(narrow + i * narrow_stride + r,
              expand_some(job->narrow.type, at(job->narrow, t + i, r),
                          min_of<int64_t>(kLanes, job->r - r)));
    }
    const int64_t whole = cols / kCols * kCols;
    if (whole < cols) {
      __builtin_memset(rest, 0, static_cast<size_t>(rows * kCols * bytes));
      for (int64_t i = 0; i < rows; ++i)
        __builtin_memcpy(rest + i * kCols * bytes, at(wide, t + i, w0 + whole),
                         static_cast<size_t>((cols - whole) * bytes));
    }
    for (int64_t r = 0; r < job->r; r += kNarrowRows) {
      const auto multiply = kNarrow.of[min_of<int64_t>(kNarrowRows, job->r - r) - 1];
      NarrowTile tile = {.narrow = narrow + r,
                         .narrow_stride = narrow_stride,
                         .wide_stride = wide.stride,
                         .ahead = r == 0 && t + rows < job->t ? kNarrowBlock * wide.stride : 0,
                         .type = wide.type,
                         .rows = rows,
                         .sums_stride = stride,
                         .go_on = t > 0};
      for (int64_t w = 0; w < whole; w += kCols) {
        tile.wide = at(wide, t, w0 + w);
        tile.sums = sums + r * stride + w;
        multiply(tile);
      }
      if (whole == cols) continue;
      tile.wide = rest;
      tile.wide_stride = kCols * bytes;
      tile.ahead = 0;
      tile.sums = sums + r * stride + whole;
      multiply(tile);
    }
  }
  add_sums(*job, sums, stride, w0, cols);
}
