// Words of gemm_words.inl that are fp32: everything is expanded to fp32, exactly. After
// gemm_vec.inl.

constexpr int64_t kWordElems = 1;
[[maybe_unused]] constexpr int kMaxPieces = 2;

constexpr int kSecondParts = 1, kSecondProducts = 1;
constexpr SecondProduct kSecond[kSecondProducts] = {{0, 0}};

#if defined(__AVX512F__)
inline Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#else
// Of 16 registers the compiler frees some by moving sums about and to memory, if it may choose.
inline Vec multiply_add(Vec a, Vec b, Vec c) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
  return c;
}
#endif

// Whether kLanes words of a row from word d lie in w as they are.
bool plain_words(const GemmMatrix& w, int64_t d) {
  return w.type == GemmElem::f32 && d + kLanes <= w.cols;
}
Vec row_words(const GemmMatrix& w, int, int64_t n, int64_t d, int64_t words) {
  return expand_some(w.type, at(w, n, d), words);
}
Vec column_words(const GemmMatrix& w, int, int64_t d, int64_t n, int64_t count) {
  return expand_some(w.type, at(w, d, n), count);
}

// The words of a line of bf16 pairs: all first numbers, all second ones.
#if defined(__AVX512F__)
inline void line_words(__m512i pairs, Vec (&words)[2]) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  words[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  words[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
}
#else
inline void line_words(__m256i pairs, Vec (&words)[2]) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  words[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  words[1] = _mm256_castsi256_ps(_mm256_and_si256(pairs, upper));
}
#endif

// A group of rows of a matrix, from row t on, as [cols][kMr]; zeros for the rows it doesn't have.
[[maybe_unused]] void pack_group(const GemmMatrix& x, int64_t t, int64_t rows, float* out) {
  const int64_t size = elem_bytes(x.type);
  for (int64_t d = 0; d < x.cols; d += kLanes) {
    const int64_t words = min_of<int64_t>(kLanes, x.cols - d);
    const char* in = at(x, t, d);
    Vec r[kLanes];
    if (rows == kMr && words == kLanes) {
      for (int64_t i = 0; i < kLanes; ++i) {
        r[i] = i < kMr ? expand(x.type, in + i * x.stride) : zero();
        if (i < kMr) _mm_prefetch(in + i * x.stride + 16 * kLanes * size, _MM_HINT_T0);
      }
    } else {
      for (int64_t i = 0; i < kLanes; ++i)
        r[i] = i < rows ? expand_some(x.type, in + i * x.stride, words) : zero();
    }
    // lanes beyond kMr are what the next line writes over: ascending, and not behind the last
    if (d + kLanes < x.cols) {
      transpose(r, out + d * kMr, kMr);
    } else {
      float square[kLanes * kLanes];
      transpose(r, square, kLanes);
      for (int64_t i = 0; i < words; ++i)
        __builtin_memcpy(out + (d + i) * kMr, square + i * kLanes, kMr * 4);
    }
  }
}
// The same of a matrix by depth, for rows of it that are columns [t, t + count):
// [group][x.rows][kMr].
void copy_groups(const GemmMatrix& x, int64_t t, int64_t count, float* out) {
  constexpr int64_t kAhead = 8;
  const int64_t size = elem_bytes(x.type);
  for (int64_t k = 0; k < x.rows; ++k) {
    const char* in = at(x, k, t);
    if (k + kAhead < x.rows) {
      for (int64_t i = 0; i < count * size; i += 64)
        _mm_prefetch(in + kAhead * x.stride + i, _MM_HINT_T0);
    }
    // as in pack_group
    const bool last = k + 1 == x.rows;
    for (int64_t i = 0; i < count; i += kMr) {
      float* to = out + i * x.rows + k * kMr;
      if (!last && t + i + kLanes <= x.cols) {
        store(to, expand(x.type, in + i * size));
      } else {
        float line[kLanes];
        store(line, expand_some(x.type, in + i * size, min_of(kMr, count - i)));
        __builtin_memcpy(to, line, kMr * 4);
      }
    }
  }
}

int64_t whole_groups(int64_t rows) { return (rows + kMr - 1) / kMr * kMr; }

// By groups, or else bf16 rows as [rows][k] (few columns: panel() expands a tile at a time); fp32
// rows are read in place.
void prepare(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows) {
  float* out = static_cast<float*>(chunk->prepared);
  const GemmMatrix& x = job->x;
  if (chunk->groups) {
    float* second = out + whole_groups(chunk->rows) * job->k;
    if (job->x_by_depth) copy_groups(x, t0, rows, out + (t0 - chunk->begin) * job->k);
    for (int64_t t = t0; t < t0 + rows; t += kMr) {
      const int64_t count = min_of(kMr, t0 + rows - t), at = t - chunk->begin;
      if (!job->x_by_depth) pack_group(x, t, count, out + at * job->k);
      if (job->r > 0) pack_group(job->x2, t, count, second + at * job->r);
    }
    return;
  }
  if (x.type == GemmElem::f32) return;
  for (int64_t i = 0; i < rows; ++i)
    expand_row(x.type, at(x, t0 + i, 0), job->k, out + (t0 - chunk->begin + i) * job->k);
}

int list_pieces(const GemmJob& job, const GemmChunk& chunk, int64_t t0, Piece* out) {
  const char* base = static_cast<const char*>(chunk.prepared);
  const int64_t t = t0 - chunk.begin;
  Broadcast x;
  if (chunk.groups) {
    x = by_depth(base + t * job.k * 4, job.k);
  } else if (job.x.type == GemmElem::f32) {
    x = by_rows(at(job.x, t0, 0), job.x.stride);
  } else if (chunk.prepared == nullptr) {
    x = raw_rows(at(job.x, t0, 0), job.x.stride);
  } else {
    x = by_rows(base + t * job.k * 4, job.k * 4);
  }
  out[0] = {x, &job.w, 0, job.k, false};
  if (job.r == 0) return 1;
  x = chunk.groups ? by_depth(base + (whole_groups(chunk.rows) * job.k + t * job.r) * 4, job.r)
                   : by_rows(at(job.x2, t0, 0), job.x2.stride);
  out[1] = {x, &job.w2, 0, job.r, true};
  return 2;
}
