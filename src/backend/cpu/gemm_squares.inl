// gemm of few rows by an fp32 or bf16 w ([n, depth]) that passes once, straight from memory: squares
// of kLanes rows by kLanes 32-bit words (one fp32, two bf16) are turned in cache. The chain over the
// depth, and so every bit, is that of gemm_words.inl, after which this is included (AVX2).

// More rows of w at once would be more streams than memory is read well in, fewer a chain that
// waits for itself.
constexpr int kSquareRows = 4;        // of x together
constexpr int kSquares = 2;           // beside each other
constexpr int64_t kSquareAhead = 12;  // along the depth, that are asked for early

// Up to kLanes rows of w from (n, d), numbers of each, turned: out[number][kLanes].
inline void turn_rest(const GemmMatrix& w, int64_t n, int64_t rows, int64_t d, int64_t numbers,
                      float* out) {
  Vec r[kLanes];
  for (int64_t i = 0; i < kLanes; ++i)
    r[i] = i < rows ? expand_some(w.type, at(w, n + i, d), numbers) : zero();
  transpose(r, out, kLanes);
}

// c[M][ldc] = x w over the whole depth, for cols <= kNr columns of w from n on.
template <int M>
void multiply_squares(const Broadcast& x, const GemmMatrix& w, int64_t n, int64_t cols, float* c,
                      int64_t ldc) {
  constexpr int G = kSquares;
  const int64_t words = w.type == GemmElem::bf16 ? 2 : 1, numbers = kLanes * words;
  float squares[G][kLanes * kLanes];
  Vec acc[G][M];
#pragma GCC unroll 16
  for (int i = 0; i < G * M; ++i) acc[i / M][i % M] = zero();
  const char* row_of_x[M];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) row_of_x[m] = x.data + m * x.row_bytes;
  const auto multiply_number = [&](int64_t d, int g, Vec column) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
      acc[g][m] = multiply_add(splat_word(row_of_x[m] + d * 4), column, acc[g][m]);
  };
  int64_t d = 0;
  for (; d + numbers <= w.cols; d += numbers) {
    for (int g = 0; g < G; ++g) {
      const int64_t first = g * kLanes, rows = min_of<int64_t>(kLanes, cols - first);
      const char* in = at(w, n + first, d);
      // behind the end of the rows the next ones begin
      const int64_t next = d + kSquareAhead * numbers;
      const char* ahead = next < w.cols ? at(w, n + first, next)
                                        : at(w, n + first + G * kLanes, next - w.cols);
      Vec r[kLanes];
      if (rows >= kLanes) {
#pragma GCC unroll 8
        for (int64_t i = 0; i < kLanes; ++i) {
          _mm_prefetch(ahead + i * w.stride, _MM_HINT_T0);
          r[i] = load(reinterpret_cast<const float*>(in + i * w.stride));
        }
      } else {
        for (int64_t i = 0; i < kLanes; ++i)
          r[i] = i < rows ? load(reinterpret_cast<const float*>(in + i * w.stride)) : zero();
      }
      transpose(r, squares[g], kLanes);
    }
    if (words == 1) {
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) {
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) multiply_number(d + i, g, load(squares[g] + i * kLanes));
      }
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) {
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
          Vec both[2];
          line_words(_mm256_castps_si256(load(squares[g] + i * kLanes)), both);
          multiply_number(d + 2 * i, g, both[0]);
          multiply_number(d + 2 * i + 1, g, both[1]);
        }
      }
    }
  }
  for (; d < w.cols; d += kLanes) {
    const int64_t some = min_of<int64_t>(kLanes, w.cols - d);
    for (int g = 0; g < G; ++g)
      turn_rest(w, n + g * kLanes, cols - g * kLanes, d, some, squares[g]);
    for (int64_t i = 0; i < some; ++i) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) multiply_number(d + i, g, load(squares[g] + i * kLanes));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < G * M; ++i) store(c + i % M * ldc + i / M * kLanes, acc[i / M][i % M]);
}

// scratch: a packed block of w2; sums.
void panel_squares(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
                   int64_t cols, void* scratch) {
  using MultiplySquares =
      void (*)(const Broadcast&, const GemmMatrix&, int64_t, int64_t, float*, int64_t);
  constexpr MultiplySquares kOf[kSquareRows] = {multiply_squares<1>, multiply_squares<2>,
                                                multiply_squares<3>, multiply_squares<4>};
  static_assert(kSquares * kLanes == kNr);
  Piece pieces[kMaxPieces];
  const int count = list_pieces(*job, *chunk, t0, pieces);
  const int64_t ldc = (cols + kNr - 1) / kNr * kNr;
  float* second = static_cast<float*>(scratch);
  float* sums = second + ldc * kGemmWordsFewDepth;
  for (int64_t t = 0; t < rows; t += kSquareRows) {
    const int64_t m = min_of<int64_t>(kSquareRows, rows - t);
    for (int64_t n = 0; n < cols; n += kNr)
      kOf[m - 1](tile_of(pieces[0].x, t, 0), job->w, n0 + n, min_of(kNr, cols - n), sums + n, ldc);
    add_second(*job, pieces, count, t, m, n0, cols, second, sums, ldc);
    finish(*job, sums, ldc, t0 + t, m, n0, cols);
  }
}
