// Words of gemm_words.inl that are fp32: everything is expanded to fp32, exactly. After
// gemm_vec.inl.

constexpr int64_t kWordElems = 1;
[[maybe_unused]] constexpr int kMaxPieces = 2;

inline Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }

Vec row_words(const GemmMatrix& w, int, int64_t n, int64_t d, int64_t words) {
  return expand_some(w.type, at(w, n, d), words);
}
Vec column_words(const GemmMatrix& w, int, int64_t d, int64_t n, int64_t count) {
  return expand_some(w.type, at(w, d, n), count);
}

// fp32 x is read in place; bf16 x is prepared as [rows][k], or [k][rows] if it lies by depth.
void prepare(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows) {
  if (job->x.type == GemmElem::f32) return;
  float* out = static_cast<float*>(chunk->prepared);
  const int64_t lines = job->x_by_depth ? job->k : rows, count = job->x_by_depth ? rows : job->k;
  for (int64_t i = 0; i < lines; ++i) {
    const char* in = job->x_by_depth ? at(job->x, i, t0) : at(job->x, t0 + i, 0);
    float* line = job->x_by_depth ? out + i * chunk->rows + (t0 - chunk->begin)
                                  : out + (t0 - chunk->begin + i) * job->k;
    int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes) store(line + j, expand(job->x.type, in + 2 * j));
    for (; j < count; ++j) line[j] = scalar(job->x.type, in + 2 * j);
  }
}

int list_pieces(const GemmJob& job, const GemmChunk& chunk, int64_t t0, Piece* out) {
  Broadcast x;
  if (job.x.type == GemmElem::f32) {
    x = job.x_by_depth ? Broadcast{at(job.x, 0, t0), 4, job.x.stride}
                       : Broadcast{at(job.x, t0, 0), job.x.stride, 4};
  } else {
    const char* base = static_cast<const char*>(chunk.prepared);
    const int64_t t = t0 - chunk.begin;
    x = job.x_by_depth ? Broadcast{base + t * 4, 4, chunk.rows * 4}
                       : Broadcast{base + t * job.k * 4, job.k * 4, 4};
  }
  out[0] = {x, &job.w, 0, job.k, false};
  if (job.r == 0) return 1;
  out[1] = {{at(job.x2, t0, 0), job.x2.stride, 4}, &job.w2, 0, job.r, true};
  return 2;
}
