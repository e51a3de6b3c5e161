// gemm over 32-bit words along the depth, for the vector paths. Included inside an anonymous
// namespace of a file compiled for one instruction set after gemm_vec.inl and gemm_f32.inl or
// gemm_pairs.inl, which say what a word is.
//
// A row of y is a chain over the depth, one fused multiply-add a word, in ascending order: pieces
// of the product one after another, blocks of the depth handed on through fp32 memory. So neither
// the number of rows nor the blocking changes its bits.

constexpr int64_t kNr = kLanes * kVecs;

// Lines a register tile fetches meanwhile, one a word of the depth: count (even) of them inner
// bytes apart, then the same from outer bytes on.
struct Ahead {
  const char* data;
  int64_t inner, outer;
  int count;
};
// 16 rows side by side, line after line.
inline Ahead rows_ahead(const char* data, int64_t row_bytes) { return {data, row_bytes, 64, 16}; }

// A run of the depth: words of the broadcast operand against packed vectors, [steps][kNr].
struct Run {
  Broadcast a;
  const float* b;
  int64_t steps;
};
[[maybe_unused]] constexpr int kMaxRuns = kMaxPieces + 1;

// c[M][ldc] (+)= the sum of the runs, in order; before run number scaled the sums are multiplied by
// alpha.
struct Tile {
  Run runs[kMaxRuns];
  int count, scaled;
  float alpha;
  float* c;
  int64_t ldc;
  bool go_on;
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
  if (tile.go_on) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[m][v] = load(tile.c + m * tile.ldc + v * kLanes);
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
    for (int64_t k = 0; k + 2 <= steps; k += 2) {
      _mm_prefetch(line, _MM_HINT_T1);
      _mm_prefetch(line + inner, _MM_HINT_T1);
      left -= 2;
      line += left ? 2 * inner : back;
      left = left ? left : tile.ahead.count;
      multiply_word<M, V, kGroups>(third, row_bytes, 0, b, acc);
      multiply_word<M, V, kGroups>(third, row_bytes, 1, b, acc);
      advance(2);
    }
    if (steps % 2) multiply_word<M, V, kGroups>(third, row_bytes, 0, b, acc);
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
// rows of the broadcast operand, cols of the packed one.
inline void multiply_tile(const Tile& tile, int64_t rows, int64_t cols) {
  const bool groups = tile.runs[0].a.group_bytes != 0;
  kMultiply[groups][(cols + kLanes - 1) / kLanes - 1]->of[rows - 1](tile);
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
bool crowded(const Broadcast& x) { return x.group_bytes == 0 && x.row_bytes % 1024 == 0; }

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

// For few rows by a w that isn't packed: sums[m][ldc] = alpha sums + the low-rank words of rows [t, t + m). scratch: a packed block of w2.
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
          tile.c = sums + i * ldc + n;
          tile.ldc = ldc;
          tile.go_on = true;
          multiply_tile(tile, min_of(kMr, m - i), vectors * kLanes);
        }
      }
    }
  }
}

#include "backend/cpu/gemm_words_bf16t.inl"

// A panel of w on its way: pieces of the sum, packed a pass over the rows at a time.
struct PanelOfW {
  const GemmJob& job;
  int64_t n0, cols, depth_block, pass_words;
  float* packed;  // [strips][pass_words][kNr]
  Piece pieces[kMaxPieces] = {};
  int count = 0;
  // not 0: the two parts of a narrow fp32 w are columns of one strip, so far apart
  int64_t both = 0;
  // where the next pass begins
  int piece = 0;
  int64_t depth = 0;
  bool scaled = job.alpha == 1;

  // What a pass multiplies: words of x from the d-th of a piece with packed ones of w.
  struct Part {
    const Piece* piece;
    int64_t d, steps;
    const float* packed;
  };
  struct Pass {
    Part parts[kMaxRuns];
    int count, scaled;  // as in Tile
    int64_t words;
  };

  void list(const GemmChunk& chunk, int64_t t0) {
    const int listed = list_pieces(job, chunk, t0, pieces);
    for (int p = 0; p < listed; ++p) {  // but those without depth
      if (pieces[p].depth > 0) pieces[count++] = pieces[p];
    }
    const bool narrow = job.w.type == GemmElem::f32 && job.n <= kGemmBothCols;
    if (kSecondParts == 2 && narrow && count == 2) {
      both = job.n <= kLanes / 2 ? kLanes / 2 : kLanes;
      count = 1;
    }
  }
  int64_t strips() const { return (cols + kNr - 1) / kNr; }
  bool done() const { return piece == count; }
  // Whether what comes next is not w any more.
  bool behind_w() const { return done() || pieces[piece].second; }
  bool one_pass() const {
    int64_t words = 0;
    bool whole = true;
    for (int p = 0; p < count; ++p) {
      words += pieces[p].depth;
      whole &= pieces[p].depth <= depth_block;
    }
    return whole && words <= pass_words;
  }

  Pass next_pass() {
    Pass pass = {};
    pass.scaled = -1;
    while (!done() && pass.count < kMaxRuns) {
      const Piece& p = pieces[piece];
      const int64_t steps = min_of(depth_block, p.depth - depth);
      if (pass.count > 0 && pass.words + steps > pass_words) break;
      if (p.second && !scaled) {
        pass.scaled = pass.count;
        scaled = true;
      }
      float* to = packed + pass.words * strips() * kNr;
      pack(p, steps, to);
      pass.parts[pass.count++] = {&p, depth, steps, to};
      pass.words += steps;
      depth += steps;
      if (depth == p.depth) {
        depth = 0;
        ++piece;
      }
    }
    return pass;
  }
  void pack(const Piece& p, int64_t steps, float* to) const {
    if (both != 0) return pack_both(job.w, job.w_by_depth, cols, both, depth, steps, to);
    const auto pack_words = p.w->type == GemmElem::bf16t ? pack_expanded
                            : job.w_by_depth             ? pack_columns
                                                         : pack_rows;
    pack_words(*p.w, p.part, n0, cols, depth, steps, to);
  }
};

// The block of w that is packed next, fetched some rows at a time: behind the last of a panel the
// first of the worker's next panel.
struct NextBlock {
  const GemmMatrix& w;
  bool by_depth;
  int64_t n, d, row, rows;  // row: of the block, the next to be fetched
  int lines;                // of a row, by depth

  NextBlock(const PanelOfW& panel, int64_t next_panel)
      : w(panel.job.w), by_depth(panel.job.w_by_depth) {
    const bool behind = panel.behind_w();
    n = behind ? panel.n0 + next_panel : panel.n0;
    d = behind ? 0 : panel.depth;
    const int64_t cols = min_of(panel.cols, panel.job.n - n);
    lines = static_cast<int>((cols * elem_bytes(w.type) + 127) / 128 * 2);
    rows = by_depth ? min_of(panel.depth_block * kWordElems, w.rows - d * kWordElems) : cols;
    row = behind || by_depth ? 0 : kLanes;  // pack_rows asks for the first itself
    if (w.type == GemmElem::bf16t || cols <= 0 || panel.depth_block <= 32) rows = 0;
  }
  bool more() const { return row < rows; }
  // What a register tile of so many words fetches.
  Ahead take(int64_t words) {
    const int64_t from = row;
    row += by_depth ? (words + lines - 1) / lines : 16;
    return by_depth ? Ahead{at(w, d * kWordElems + from, n), 64, w.stride, lines}
                    : rows_ahead(at(w, n + from, d * kWordElems), w.stride);
  }
};

// scratch: packed words of w (whole strips of pass_words), a tile of x, then fp32 sums: [tiles of
// rows][strips][rows of a tile][kNr]. A block of w stays in L2 while all the rows pass by, a tile
// of x in L1 while it meets the strips. Low-rank words follow the product's last block in the
// registers.
void panel(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
           int64_t cols, int64_t depth_block, void* scratch) {
  PanelOfW w = {.job = *job,
                .n0 = n0,
                .cols = cols,
                .depth_block = depth_block,
                .pass_words = chunk->pass_words,
                .packed = static_cast<float*>(scratch)};
  w.list(*chunk, t0);
  const int64_t strips = w.strips();
  float* copy = w.packed + strips * chunk->pass_words * kNr;
  float* sums = copy + (depth_block + 16) * kMr;
  const bool one_pass = w.one_pass();
  // rows of a tile, as even as they can be
  const int64_t tiles = (rows + kMr - 1) / kMr;
  const int64_t mr = job->x_by_depth ? kMr : (rows + tiles - 1) / tiles;
  const int y_lines = static_cast<int>((cols * elem_bytes(job->y.type) + 127) / 128 * 2);
  bool go_on = false;
  while (!w.done()) {
    const PanelOfW::Pass pass = w.next_pass();
    const bool last = w.done();
    Tile tile = {.count = pass.count, .scaled = pass.scaled, .alpha = job->alpha, .ldc = kNr};
    tile.go_on = go_on;
    NextBlock next(w, chunk->next_panel);
    float* c = sums;
    for (int64_t t = 0; t < rows; t += mr) {
      const int64_t m = min_of(mr, rows - t), steps = pass.parts[0].steps;
      for (int i = 0; i < pass.count; ++i) {
        const PanelOfW::Part& part = pass.parts[i];
        tile.runs[i] = {tile_of(part.piece->x, t, part.d), part.packed, part.steps};
      }
      Broadcast& x = tile.runs[0].a;
      // the next tiles of x and y and the next block of w are on their way meanwhile
      const Ahead idle = {x.data, 0, 0, 16},
                  y_ahead = {at(job->y, t0 + t + m, n0), 64, job->y.stride, y_lines},
                  x_ahead = x.group_bytes ? Ahead{x.data + x.group_bytes, 64, 64 * 16, 16}
                                          : rows_ahead(x.data + m * x.row_bytes, x.row_bytes);
      if (strips > 1 && crowded(x)) {
        const int64_t line_words = ((steps + 15) / 16 | 1) * 16;  // an odd number of lines
        for (int64_t i = 0; i < m; ++i)
          __builtin_memcpy(copy + i * line_words, x.data + i * x.row_bytes,
                           static_cast<size_t>(steps) * 4);
        x = by_rows(reinterpret_cast<const char*>(copy), line_words * 4);
      }
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t n = n0 + s * kNr, strip_cols = min_of(kNr, cols - s * kNr);
        tile.ahead = idle;
        if (s < 2 && t + m < rows) {
          tile.ahead = s == 0 ? x_ahead : last ? y_ahead : idle;
        } else if (next.more()) {
          tile.ahead = next.take(pass.words);
        } else if (job->w_by_depth && t == 0 && steps <= 32 && !w.behind_w()) {
          // short blocks: these columns in rows that pack_columns hasn't asked for
          tile.ahead =
              rows_ahead(at(job->w, (w.depth + kColumnsAhead) * kWordElems, n), job->w.stride);
        }
        if (go_on) {
          for (int64_t i = 0; i < m * kNr; i += 16) _mm_prefetch(c + m * kNr + i, _MM_HINT_T0);
        }
        tile.c = c;
        multiply_tile(tile, m, w.both != 0 ? 2 * w.both : strip_cols);
        if (last && w.both != 0) fold(c, m, w.both);
        if (last) finish(*job, c, kNr, t0 + t, m, n, strip_cols);
        if (!one_pass) c += m * kNr;
        for (int i = 0; i < pass.count; ++i) tile.runs[i].b += pass.parts[i].steps * kNr;
      }
    }
    go_on = true;
  }
  if (!go_on) {
    for (int64_t i = 0; i < rows * kNr; i += kLanes) store(sums + i, zero());
    for (int64_t n = 0; n < cols; n += kNr)
      finish(*job, sums, kNr, t0, rows, n0 + n, min_of(kNr, cols - n));
  }
}
