// Words of gemm_words.inl that are fp32: everything is expanded to fp32, exactly. After
// gemm_vec.inl.

constexpr int64_t kWordElems = 1;
[[maybe_unused]] constexpr int kMaxPieces = 2;

constexpr int kSecondParts = 1, kSecondProducts = 1;
constexpr SecondProduct kSecond[kSecondProducts] = {{0, 0}};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }

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

// fp32 rows of x are read in place; bf16 rows are prepared as [rows][k], x that lies by depth in
// groups of rows as [group][k][rows of the group].
void prepare(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows) {
  float* out = static_cast<float*>(chunk->prepared);
  const GemmMatrix& x = job->x;
  if (job->x_by_depth) {
    for (int64_t k = 0; k < job->k; ++k) {
      for (int64_t t = t0; t < t0 + rows; t += kMr) {
        float* to = out + ((t - chunk->begin) * job->k + k * kMr);
        const char* in = at(x, k, t);
        const int64_t count = min_of(kMr, t0 + rows - t);
        for (int64_t i = 0; i < count; ++i) to[i] = scalar(x.type, in + i * elem_bytes(x.type));
      }
    }
    return;
  }
  if (x.type == GemmElem::f32) return;
  for (int64_t i = 0; i < rows; ++i) {
    const char* in = at(x, t0 + i, 0);
    float* line = out + (t0 - chunk->begin + i) * job->k;
    int64_t j = 0;
    for (; j + kLanes <= job->k; j += kLanes) store(line + j, expand(x.type, in + 2 * j));
    for (; j < job->k; ++j) line[j] = scalar(x.type, in + 2 * j);
  }
}

int list_pieces(const GemmJob& job, const GemmChunk& chunk, int64_t t0, Piece* out) {
  const char* base = static_cast<const char*>(chunk.prepared);
  const int64_t t = t0 - chunk.begin;
  Broadcast x;
  if (job.x_by_depth) {
    x = by_depth(base + t * job.k * 4, job.k);
  } else if (job.x.type == GemmElem::f32) {
    x = by_rows(at(job.x, t0, 0), job.x.stride);
  } else {
    x = by_rows(base + t * job.k * 4, job.k * 4);
  }
  out[0] = {x, &job.w, 0, job.k, false};
  if (job.r == 0) return 1;
  out[1] = {by_rows(at(job.x2, t0, 0), job.x2.stride), &job.w2, 0, job.r, true};
  return 2;
}
