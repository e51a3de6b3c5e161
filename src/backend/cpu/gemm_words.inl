// gemm over 32-bit words along the depth, for the vector paths. Included inside an anonymous
// namespace of a file compiled for one instruction set after gemm_vec.inl and gemm_f32.inl or
// gemm_pairs.inl, which say what a word is.
//
// A row of y is a chain over the depth, one fused multiply-add a word, in ascending order: pieces
// of the product one after another, blocks of the depth handed on through fp32 memory. So neither
// the number of rows nor the blocking changes its bits.

constexpr int64_t kMr = kGemmWordsRows, kNr = kLanes * kVecs;

// c[M][ldc] (+)= a b over steps words; b packed [steps][V * kLanes].
template <int M, int V>
void multiply(Broadcast a, const float* b, int64_t steps, float* c, int64_t ldc, bool go_on) {
  Vec acc[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[m][v] = zero();
  }
  if (go_on) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[m][v] = load(c + m * ldc + v * kLanes);
    }
  }
  const char* row[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) row[m] = a.data + m * a.row_bytes;
  int64_t offset = 0;
  for (int64_t k = 0; k < steps; ++k) {
    Vec bv[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) bv[v] = load(b + v * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec av = splat_word(row[m] + offset);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[m][v] = multiply_add(av, bv[v], acc[m][v]);
    }
    offset += a.depth_bytes;
    b += V * kLanes;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(c + m * ldc + v * kLanes, acc[m][v]);
  }
}

using Multiply = void (*)(Broadcast, const float*, int64_t, float*, int64_t, bool);
template <int V>
constexpr Multiply kMultiplyRows[kMr] = {multiply<1, V>, multiply<2, V>, multiply<3, V>,
                                         multiply<4, V>, multiply<5, V>, multiply<6, V>};
#if defined(__AVX512F__)
constexpr const Multiply* kMultiply[kVecs] = {kMultiplyRows<1>, kMultiplyRows<2>, kMultiplyRows<3>,
                                              kMultiplyRows<4>};
#else
constexpr const Multiply* kMultiply[kVecs] = {kMultiplyRows<1>, kMultiplyRows<2>};
#endif

// Words of w: rows n0.. of an [n, depth] matrix, words [d0, d0 + steps), as out[steps][width],
// zeros where there is nothing. part (pairs of an fp32 matrix): 0 the value rounded to bf16, 1 what
// is left of it.
void pack_rows(const GemmMatrix& w, int part, int64_t n0, int64_t cols, int64_t d0, int64_t steps,
               int64_t width, float* out) {
  for (int64_t n = 0; n < width; n += kLanes) {
    const int64_t rows = min_of<int64_t>(kLanes, cols - n);
    for (int64_t d = 0; d < steps; d += kLanes) {
      const int64_t words = min_of<int64_t>(kLanes, steps - d);
      Vec r[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        r[i] = i < rows ? row_words(w, part, n0 + n + i, d0 + d, words) : zero();
      }
      if (words == kLanes) {
        transpose(r, out + d * width + n, width);
      } else {
        float square[kLanes * kLanes];
        transpose(r, square, kLanes);
        for (int64_t i = 0; i < words; ++i)
          store(out + (d + i) * width + n, load(square + i * kLanes));
      }
    }
  }
}

// The same of a [depth, n] matrix.
void pack_columns(const GemmMatrix& w, int part, int64_t n0, int64_t cols, int64_t d0,
                  int64_t steps, int64_t width, float* out) {
  for (int64_t d = 0; d < steps; ++d) {
    for (int64_t n = 0; n < width; n += kLanes) {
      store(out + d * width + n,
            n < cols ? column_words(w, part, d0 + d, n0 + n, min_of<int64_t>(kLanes, cols - n))
                     : zero());
    }
  }
}

// Walks over the lines of rows of memory, so that they can be fetched a few at a time.
struct Fetch {
  const char* row = nullptr;
  int64_t stride = 0, row_bytes = 0, rows = 0, at = 0;
  void step(int64_t lines) {
    for (; lines > 0 && rows > 0; --lines) {
      _mm_prefetch(row + at, _MM_HINT_T1);
      at += 64;
      if (at >= row_bytes) {
        at = 0;
        row += stride;
        --rows;
      }
    }
  }
};

// Words [d, d + steps) of w's columns [n0, n0 + cols).
Fetch fetch_of(const GemmJob& job, const GemmMatrix& w, int64_t n0, int64_t cols, int64_t d,
               int64_t steps) {
  if (job.w_by_depth) {
    const int64_t rows = min_of(steps * kWordElems, w.rows - d * kWordElems);
    return {at(w, d * kWordElems, n0), w.stride, cols * elem_bytes(w.type), rows, 0};
  }
  return {at(w, n0, d * kWordElems), w.stride, steps * kWordElems * elem_bytes(w.type), cols, 0};
}

// scratch: a packed block of w (kGemmWordsDepth x kNr words), then fp32 sums of rows x kNr.
void panel(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
           int64_t cols, int64_t depth_block, void* scratch) {
  float* packed = static_cast<float*>(scratch);
  float* c = packed + kGemmWordsDepth * kNr;
  Piece pieces[kMaxPieces];
  const int count = list_pieces(*job, *chunk, t0, pieces);
  const int64_t vecs = (cols + kLanes - 1) / kLanes, width = vecs * kLanes;
  const int64_t y_bytes = cols * elem_bytes(job->y.type);
  bool go_on = false;
  for (int p = 0; p < count; ++p) {
    const Piece& piece = pieces[p];
    if (piece.second && !pieces[p - 1].second && job->alpha != 1) {
      const Vec alpha = splat(job->alpha);
      for (int64_t i = 0; i < rows * kNr; i += kLanes) store(c + i, mul(load(c + i), alpha));
    }
    for (int64_t d = 0; d < piece.depth; d += depth_block) {
      const int64_t steps = min_of(depth_block, piece.depth - d);
      (job->w_by_depth ? pack_columns : pack_rows)(*piece.w, piece.part, n0, cols, d, steps, width,
                                                   packed);
      const bool last = p + 1 == count && d + steps == piece.depth;
      // the next block of w is on its way while this one is multiplied
      Fetch fetch;
      if (d + steps < piece.depth) {
        fetch = fetch_of(*job, *piece.w, n0, cols, d + steps,
                         min_of(depth_block, piece.depth - d - steps));
      }
      const int64_t lines = fetch.rows * (fetch.row_bytes / 64 + 1) * kMr / rows + 1;
      for (int64_t t = 0; t < rows; t += kMr) {
        fetch.step(lines);
        Broadcast x = piece.x;
        x.data += t / kMr * x.group_bytes + d * x.depth_bytes;
        const int64_t m = min_of(kMr, rows - t);
        if (x.depth_bytes == 4 && t + 2 * kMr <= rows) {
          for (int64_t i = kMr; i < 2 * kMr; ++i) {
            for (int64_t at = 0; at < steps * 4; at += 64)
              _mm_prefetch(x.data + i * x.row_bytes + at, _MM_HINT_T0);
          }
        }
        if (last) {
          for (int64_t i = t + kMr; i < min_of(rows, t + 2 * kMr); ++i) {
            const char* y = at(job->y, t0 + i, n0);
            for (int64_t at = 0; at < y_bytes; at += 64) fetch_to_write(y + at);
          }
        }
        kMultiply[vecs - 1][m - 1](x, packed, steps, c + t * kNr, kNr, go_on);
        if (last) finish(*job, c + t * kNr, kNr, t0 + t, m, n0, cols);
      }
      go_on = true;
    }
  }
  if (!go_on) {
    for (int64_t i = 0; i < rows * kNr; i += kLanes) store(c + i, zero());
    finish(*job, c, kNr, t0, rows, n0, cols);
  }
}
