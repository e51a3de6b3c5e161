// Words of a w in strips (GemmMatrix). Part of gemm_words.inl.

constexpr int kPair = 2 / static_cast<int>(kWordElems);  // words of a pair
constexpr int kHalves = 16 / kLanes;                     // vectors of a line
constexpr int64_t kTilesAhead = 8;

// put(line, half, words of it) for the lines of tile t of a strip. The tile at ahead is fetched.
template <class Put>
inline __attribute__((always_inline)) void tile_words(const PackedStrip& strip, int64_t t,
                                                      const char* ahead, Put put) {
  fetch_tile(ahead);
  const char* plain = strip.plain(t);
#if defined(__AVX512F__)
  const auto put_line = [&](int64_t line, __m512i pairs) __attribute__((always_inline)) {
    Vec words[kPair];
    line_words(pairs, words);
    put(line, 0, words);
  };
  if (plain != nullptr) {
    for (int64_t line = 0; line < kTileLines; ++line)
      put_line(line, _mm512_loadu_si512(plain + line * 64));
  } else {
    strip.expand(t, put_line);
  }
#else
  const auto put_line = [&](int64_t line, int half, __m256i pairs) __attribute__((always_inline)) {
    Vec words[kPair];
    line_words(pairs, words);
    put(line, half, words);
  };
  if (plain != nullptr) {
    for (int64_t line = 0; line < kTileLines; ++line, plain += 64) {
      put_line(line, 0, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(plain)));
      put_line(line, 1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(plain + 32)));
    }
  } else {
    strip.expand(t, put_line);
  }
#endif
}

// pack_rows of a matrix in strips: cols, d0 and steps are whole tiles.
void pack_strips(const GemmMatrix& w, int, int64_t n0, int64_t cols, int64_t d0, int64_t steps,
                 float* out) {
  for (int64_t n = 0; n < cols; n += kStripCols) {
    const PackedStrip strip = strip_at(w, n0 + n);
    float* to = out + n / kNr * kNr * steps + n % kNr;
    for (int64_t d = 0; d < steps; d += kTileLines * kPair, to += kTileLines * kPair * kNr) {
      const int64_t t = (d0 + d) / (kTileLines * kPair);
      tile_words(
          strip, t, strip.tile(t + kTilesAhead),
          [&](int64_t line, int half, const Vec(&words)[kPair]) __attribute__((always_inline)) {
            for (int p = 0; p < kPair; ++p)
              store(to + (line * kPair + p) * kNr + half * kLanes, words[p]);
          });
    }
  }
}

// Four words of x, repeated, and a vector of the one that a line needs. (Where shuffles have a port
// that multiply-adds don't use: the path of pairs is that of AMD's processors.)
#if defined(__AVX512F__)
constexpr bool kFours = kPair == 1;
using Four = __m512i;
inline Four load_four(const char* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __attribute__((always_inline)) Vec splat_of(Four x, int64_t line) {
  switch (line % 4) {
    case 0:
      return _mm512_castsi512_ps(_mm512_shuffle_epi32(x, _MM_PERM_AAAA));
    case 1:
      return _mm512_castsi512_ps(_mm512_shuffle_epi32(x, _MM_PERM_BBBB));
    case 2:
      return _mm512_castsi512_ps(_mm512_shuffle_epi32(x, _MM_PERM_CCCC));
    default:
      return _mm512_castsi512_ps(_mm512_shuffle_epi32(x, _MM_PERM_DDDD));
  }
}
#else
constexpr bool kFours = false;
using Four = Vec;
inline Four load_four(const char*) { return zero(); }
inline Vec splat_of(Four x, int64_t) { return x; }
#endif

// c[M][ldc] = x w over the whole depth, for S strips of 16 columns of w, without packing it.
template <int M, int S>
void multiply_expanded(const Broadcast& x, const GemmMatrix& w, int64_t n, float* c, int64_t ldc) {
  Vec acc[S][kHalves][M];
  // Of 16 broadcasts a line 6 are shuffles: loads alone would take longer than the multiply-adds.
  constexpr int kInFours = kFours && S == 1 ? M * 6 / 16 : 0;
  Four fours[kInFours + 1];
#pragma GCC unroll 16
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < kHalves * M; ++i) acc[s][i / M][i % M] = zero();
  }
  const PackedStrip first = strip_at(w, n);
  const int64_t strip_bytes = kStripCols * w.stride, tiles = w.cols / kStripDepth;
  const char* third[(M + 2) / 3];
#pragma GCC unroll 16
  for (int m = 0; m < M; m += 3) third[m / 3] = x.data + m * x.row_bytes;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t at = t * kTileLines * kPair * 4;
    // behind the last tile come those of the next strips that are taken together
    const int64_t next = t + kTilesAhead;
    const char* ahead =
        next < tiles ? first.tile(next) : first.tile(next - tiles) + S * strip_bytes;
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) {
      tile_words(
          first.after(s * strip_bytes), t, ahead + s * strip_bytes,
          [&](int64_t line, int half, const Vec(&words)[kPair]) __attribute__((always_inline)) {
            const auto word = [&](int m, int p) __attribute__((always_inline)) {
              return third[m / 3] + m % 3 * x.row_bytes + at + (line * kPair + p) * 4;
            };
            if (line % 4 == 0) {
#pragma GCC unroll 16
              for (int m = 0; m < kInFours; ++m) fours[m] = load_four(word(m, 0));
            }
#pragma GCC unroll 16
            for (int p = 0; p < kPair; ++p) {
#pragma GCC unroll 16
              for (int m = 0; m < M; ++m) {
                const Vec xv = m < kInFours ? splat_of(fours[m], line) : splat_word(word(m, p));
                acc[s][half][m] = multiply_add(xv, words[p], acc[s][half][m]);
              }
            }
          });
    }
  }
#pragma GCC unroll 16
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < kHalves * M; ++i)
      store(c + i % M * ldc + s * 16 + i / M * kLanes, acc[s][i / M][i % M]);
  }
}

// As many rows and strips at a time as registers hold sums.
constexpr int kFusedRows = kLanes == 16 ? 16 : 6;
constexpr int kFusedSums = kLanes == 16 ? 16 : 12;
using MultiplyExpanded = void (*)(const Broadcast&, const GemmMatrix&, int64_t, float*, int64_t);
struct FusedRows {
  MultiplyExpanded of[kFusedRows];  // m rows: of[m - 1]
};
template <int S, int... M>
constexpr FusedRows fused_rows(std::integer_sequence<int, M...>) {
  return {{multiply_expanded < M + 1, (M + 1) * kHalves * S <= kFusedSums ? S : 1 > ...}};
}
template <int S>
constexpr FusedRows kFused = fused_rows<S>(std::make_integer_sequence<int, kFusedRows>());

// y[t0.., n0..) for few rows. scratch: a packed block of w2; sums.
void panel_expanded(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows,
                    int64_t n0, int64_t cols, void* scratch) {
  Piece pieces[kMaxPieces];
  const int count = list_pieces(*job, *chunk, t0, pieces);
  const int64_t ldc = (cols + kNr - 1) / kNr * kNr;
  float* second = static_cast<float*>(scratch);
  float* sums = second + ldc * kGemmWordsFewDepth;
  for (int64_t t = 0; t < rows; t += kFusedRows) {
    const int64_t m = min_of<int64_t>(kFusedRows, rows - t);
    const Broadcast x = tile_of(pieces[0].x, t, 0);
    for (int64_t n = 0; n < cols;) {
      const int64_t left = (cols - n) / kStripCols, most = kFusedSums / (m * kHalves);
      if (left >= 4 && most >= 4) {
        kFused<4>.of[m - 1](x, job->w, n0 + n, sums + n, ldc);
        n += 4 * kStripCols;
      } else if (left >= 2 && most >= 2) {
        kFused<2>.of[m - 1](x, job->w, n0 + n, sums + n, ldc);
        n += 2 * kStripCols;
      } else {
        kFused<1>.of[m - 1](x, job->w, n0 + n, sums + n, ldc);
        n += kStripCols;
      }
    }
    add_second(*job, pieces, count, t, m, n0, cols, second, sums, ldc);
    finish(*job, sums, ldc, t0 + t, m, n0, cols);
  }
}
