// gemm over 32-bit words along the depth, for the vector paths. Included inside an anonymous
// namespace of a file compiled for one instruction set after gemm_vec.inl and gemm_f32.inl or
// gemm_pairs.inl, which say what a word is.
//
// A row of y is a chain over the depth, one fused multiply-add a word, in ascending order: pieces
// of the product one after another, blocks of the depth handed on through fp32 memory. So neither
// the number of rows nor the blocking changes its bits.

constexpr int64_t kNr = kLanes * kVecs;

// Words of the depth a register tile takes at a time, and how many it takes for each line that it
// fetches meanwhile. With 256 bits the loop's own instructions are what multiply-adds wait for
// where another thread shares the core: 8 words instead of 2 and a quarter of the fetches are a
// tenth of all.
#if defined(__AVX512F__)
constexpr int kUnroll = 2, kWordsPerFetch = 1;
#else
constexpr int kUnroll = 8, kWordsPerFetch = 4;
#endif

// Lines a register tile fetches meanwhile: count (even) of them inner bytes apart, then the same
// from outer bytes on.
struct Ahead {
  const char* data;
  int64_t inner, outer;
  int count;
};
// So many rows side by side, line after line: as many words of each as the tile takes.
constexpr int kRowsAhead = 16 / kWordsPerFetch;
inline Ahead rows_ahead(const char* data, int64_t row_bytes) {
  return {data, row_bytes, 64, kRowsAhead};
}

// A run of the depth: words of the broadcast operand against packed vectors, [steps][kNr].
struct Run {
  Broadcast a;
  const float* b;
  int64_t steps;
};
[[maybe_unused]] constexpr int kMaxRuns = kMaxPieces + 1;

// c[M][ldc] = from[M][ld_from] (null: 0) + the sum of the runs, in order, + add[M][ld_add] (null:
// nothing), which may be c; before run number scaled the sums are multiplied by alpha.
struct Tile {
  Run runs[kMaxRuns];
  int count, scaled;
  float alpha;
  const float* from;
  int64_t ld_from;
  const float* add;
  int64_t ld_add;
  float* c;
  int64_t ldc;
  Ahead ahead;
};

// One word of the depth for M rows, the at-th from where third points: every third row (that many
// registers address all). Strides are constants where they can be, since the ports of the
// multiply-adds also do sums of addresses.
template <int M, int V, bool kGroups>
inline __attribute__((always_inline)) void multiply_word(const char* const (&third)[(M + 2) / 3],
                                                         int64_t row_bytes, int at, const float* b,
                                                         Vec (&acc)[M][V]) {
  Vec bv[V];
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) bv[v] = load(b + at * kNr + v * kLanes);
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    const Vec av = splat_word(kGroups ? third[0] + (at * kMr + m) * 4
                                      : third[m / 3] + m % 3 * row_bytes + at * 4);
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[m][v] = multiply_add(av, bv[v], acc[m][v]);
  }
}

// V vectors of each b; each a by_depth if kGroups, else by_rows.
template <int M, int V, bool kGroups>
void multiply(const Tile& tile) {
  Vec acc[M][V];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[m][v] = zero();
  }
  if (tile.from != nullptr) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[m][v] = load(tile.from + m * tile.ld_from + v * kLanes);
    }
  }
  const char* line = tile.ahead.data;
  const int64_t inner = tile.ahead.inner;
  const int64_t back = tile.ahead.outer - (tile.ahead.count - 2) * inner;
  int left = tile.ahead.count;
  for (int r = 0; r < tile.count; ++r) {
    if (r == tile.scaled) {
      const Vec alpha = splat(tile.alpha);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) acc[m][v] = mul(acc[m][v], alpha);
      }
    }
    const int64_t row_bytes = tile.runs[r].a.row_bytes, steps = tile.runs[r].steps;
    const float* b = tile.runs[r].b;
    const char* third[(M + 2) / 3];
#pragma GCC unroll 16
    for (int m = 0; m < M; m += 3) third[m / 3] = tile.runs[r].a.data + m * row_bytes;
    const auto advance = [&](int words) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int m = 0; m < (kGroups ? 1 : M); m += 3)
        third[m / 3] += words * (kGroups ? kMr * 4 : 4);
      b += words * kNr;
    };
    int64_t k = 0;
    for (; k + kUnroll <= steps; k += kUnroll) {
      static_assert(kUnroll == 2 * kWordsPerFetch);
      _mm_prefetch(line, _MM_HINT_T1);
      _mm_prefetch(line + inner, _MM_HINT_T1);
      left -= 2;
      line += left ? 2 * inner : back;
      left = left ? left : tile.ahead.count;
#pragma GCC unroll 16
      for (int word = 0; word < kUnroll; ++word)
        multiply_word<M, V, kGroups>(third, row_bytes, word, b, acc);
      advance(kUnroll);
    }
    for (; k < steps; ++k) {
      multiply_word<M, V, kGroups>(third, row_bytes, 0, b, acc);
      advance(1);
    }
  }
  if (tile.add != nullptr) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v)
        acc[m][v] = plus(acc[m][v], load(tile.add + m * tile.ld_add + v * kLanes));
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(tile.c + m * tile.ldc + v * kLanes, acc[m][v]);
  }
}

using Multiply = void (*)(const Tile&);
struct MultiplyRows {
  Multiply of[kMr];  // m rows: of[m - 1]
};
template <int V, bool kGroups, int... M>
constexpr MultiplyRows multiply_rows(std::integer_sequence<int, M...>) {
  return {{multiply<M + 1, V, kGroups>...}};
}
template <int V, bool kGroups>
constexpr MultiplyRows kMultiplyRows =
    multiply_rows<V, kGroups>(std::make_integer_sequence<int, kMr>());
constexpr const MultiplyRows* kMultiply[2][kVecs] = {
    {&kMultiplyRows<1, false>, &kMultiplyRows<2, false>},
    {&kMultiplyRows<1, true>, &kMultiplyRows<2, true>}};
// cols of the packed operand.
inline const MultiplyRows& multiply_of(const Tile& tile, int64_t cols) {
  return *kMultiply[tile.runs[0].a.groups][(cols + kLanes - 1) / kLanes - 1];
}
// rows of the broadcast operand.
inline void multiply_tile(const Tile& tile, int64_t rows, int64_t cols) {
  multiply_of(tile, cols).of[rows - 1](tile);
}

#if !defined(__AVX512F__)
// kLanes rows of 2 * kLanes bf16 as that many lines of fp32, kNr apart: turned as pairs, which are
// half as many words.
inline void pack_pairs(const char* in, int64_t stride, float* out) {
  Vec r[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) r[i] = load(reinterpret_cast<const float*>(in + i * stride));
  float square[kLanes * kLanes];
  transpose(r, square, kLanes);
  for (int64_t i = 0; i < kLanes; ++i) {
    Vec words[2];
    line_words(_mm256_castps_si256(load(square + i * kLanes)), words);
    store(out + 2 * i * kNr, words[0]);
    store(out + (2 * i + 1) * kNr, words[1]);
  }
}
#endif

// Words [d0, d0 + steps) of columns [n0, n0 + cols) of a panel of w, as strips of kNr columns:
// [strip][steps][kNr], zeros where there is nothing. part (pairs of an fp32 matrix): 0 the value
// rounded to bf16, 1 what is left of it. w is an [n, depth] matrix:
void pack_rows(const GemmMatrix& w, int part, int64_t n0, int64_t cols, int64_t d0, int64_t steps,
               float* out) {
  for (int64_t n = 0; n < cols; n += kLanes) {
    const int64_t rows = min_of<int64_t>(kLanes, cols - n);
    // rows that are fetched meanwhile: the next, behind the last ones the first of the next block
    int64_t next = min_of<int64_t>(kLanes, cols - n - rows);
    const char* ahead = at(w, n0 + n + rows, d0 * kWordElems);
    if (next == 0 && (d0 + steps) * kWordElems < w.cols) {
      next = min_of<int64_t>(kLanes, cols);
      ahead = at(w, n0, (d0 + steps) * kWordElems);
    }
    float* to = out + n / kNr * kNr * steps + n % kNr;
    int64_t d = 0;
#if !defined(__AVX512F__)
    if (w.type == GemmElem::bf16 && rows == kLanes) {
      for (; d + 2 * kLanes <= min_of(steps, w.cols - d0); d += 2 * kLanes) {
        for (int64_t i = 0; i < next; ++i) _mm_prefetch(ahead + i * w.stride + d * 2, _MM_HINT_T0);
        pack_pairs(at(w, n0 + n, d0 + d), w.stride, to + d * kNr);
      }
    }
#endif
    for (; d < steps; d += kLanes) {
      const int64_t words = min_of<int64_t>(kLanes, steps - d);
      const char* line = ahead + d * kWordElems * elem_bytes(w.type);
      for (int64_t i = 0; i < next; ++i) _mm_prefetch(line + i * w.stride, _MM_HINT_T0);
      Vec r[kLanes];
      if (rows == kLanes && plain_words(w, d0 + d)) {
        const char* in = at(w, n0 + n, (d0 + d) * kWordElems);
        for (int64_t i = 0; i < kLanes; ++i)
          r[i] = load(reinterpret_cast<const float*>(in + i * w.stride));
      } else {
        for (int64_t i = 0; i < kLanes; ++i) {
          r[i] = i < rows ? row_words(w, part, n0 + n + i, d0 + d, words) : zero();
        }
      }
      if (words == kLanes) {
        transpose(r, to + d * kNr, kNr);
      } else {
        float square[kLanes * kLanes];
        transpose(r, square, kLanes);
        for (int64_t i = 0; i < words; ++i) store(to + (d + i) * kNr, load(square + i * kLanes));
      }
    }
  }
}

// The same of a [depth, n] matrix.
constexpr int64_t kColumnsAhead = 8;  // words that are asked for early
void pack_columns(const GemmMatrix& w, int part, int64_t n0, int64_t cols, int64_t d0,
                  int64_t steps, float* out) {
  const int64_t row_bytes = cols * elem_bytes(w.type);
  for (int64_t d = 0; d < steps; ++d) {
    // also of the next block
    for (int64_t i = 0; i < kWordElems; ++i) {
      const int64_t row = (d0 + d + kColumnsAhead) * kWordElems + i;
      if (row >= w.rows) break;
      const char* ahead = at(w, row, n0);
      for (int64_t at = 0; at < row_bytes; at += 64) _mm_prefetch(ahead + at, _MM_HINT_T0);
    }
    for (int64_t n = 0; n < cols; n += kLanes) {
      store(out + n / kNr * kNr * steps + d * kNr + n % kNr,
            column_words(w, part, d0 + d, n0 + n, min_of<int64_t>(kLanes, cols - n)));
    }
  }
}

// Rows so far apart that those of a tile share too few sets of L1 (lines of 64 bytes, 64 sets).
bool crowded(const Broadcast& x) { return !x.groups && x.row_bytes % 1024 == 0; }

// Both parts of a narrow fp32 w beside each other, the lower ones half columns behind the upper:
// [steps][kNr].
[[maybe_unused]] void pack_both(const GemmMatrix& w, bool by_depth, int64_t cols, int64_t half,
                                int64_t d0, int64_t steps, float* out) {
  if (by_depth) {
    for (int64_t d = 0; d < steps; ++d) {
      float line[2 * kNr];
      for (int part = 0; part < 2; ++part)
        store(line + part * half, column_words(w, part, d0 + d, 0, cols));
      store(out + d * kNr, load(line));
      if (half == kLanes) store(out + d * kNr + kLanes, load(line + kLanes));
    }
    return;
  }
  for (int64_t n = 0; n < 2 * half; n += kLanes) {
    for (int64_t d = 0; d < steps; d += kLanes) {
      const int64_t words = min_of<int64_t>(kLanes, steps - d);
      Vec r[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t row = (n + i) % half;
        r[i] = row < cols ? row_words(w, (n + i) / half != 0, row, d0 + d, words) : zero();
      }
      float square[kLanes * kLanes];
      transpose(r, square, kLanes);
      for (int64_t i = 0; i < words; ++i) store(out + (d + i) * kNr + n, load(square + i * kLanes));
    }
  }
}
// c[rows][kNr]: adds the lower parts to the upper ones.
[[maybe_unused]] void fold(float* c, int64_t rows, int64_t half) {
  for (int64_t i = 0; i < rows; ++i) {
    float line[2 * kLanes] = {};
    store(line, load(c + i * kNr));
    if (half == kLanes) store(line + kLanes, load(c + i * kNr + kLanes));
    store(c + i * kNr, plus(load(line), load(line + half)));
  }
}

// For few rows by a w that isn't packed: sums[m][ldc] = alpha sums + the low-rank words of rows [t,
// t + m). scratch: a packed block of w2.
void add_second(const GemmJob& job, const Piece (&pieces)[kMaxPieces], int count, int64_t t,
                int64_t m, int64_t n0, int64_t cols, float* scratch, float* sums, int64_t ldc) {
  if (count > 1 && job.alpha != 1) {
    for (int64_t i = 0; i < m * ldc; i += kLanes)
      store(sums + i, mul(load(sums + i), splat(job.alpha)));
  }
  for (int p = 1; p < count; ++p) {
    for (int64_t d = 0; d < pieces[p].depth; d += kGemmWordsFewDepth) {
      const int64_t steps = min_of(kGemmWordsFewDepth, pieces[p].depth - d);
      pack_rows(*pieces[p].w, pieces[p].part, n0, cols, d, steps, scratch);
      for (int64_t n = 0; n < cols; n += kNr) {
        const int64_t vectors = (min_of(kNr, cols - n) + kLanes - 1) / kLanes;
        for (int64_t i = 0; i < m; i += kMr) {
          Tile tile = {};
          tile.runs[0] = {tile_of(pieces[p].x, t + i, d), scratch + n / kNr * kNr * steps, steps};
          tile.ahead = {tile.runs[0].a.data, 0, 0, 16};
          tile.count = 1;
          tile.scaled = -1;
          tile.from = tile.c = sums + i * ldc + n;
          tile.ld_from = tile.ldc = ldc;
          multiply_tile(tile, min_of(kMr, m - i), vectors * kLanes);
        }
      }
    }
  }
}

#include "backend/cpu/gemm_strips.inl"
