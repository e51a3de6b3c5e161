// x for the words paths of fp32: after gemm_groups.inl.

// Rows [t, t + rows) of a matrix, rows <= kMr, as the group of to that begins at row; zeros for the
// rows it doesn't have.
[[maybe_unused]] void pack_group(const GemmMatrix& x, int64_t t, int64_t rows, const Groups& to,
                                 int64_t row) {
  const int64_t size = elem_bytes(x.type);
  for (int64_t d = 0; d < x.cols; d += kLanes) {
    const int64_t words = min_of<int64_t>(kLanes, x.cols - d);
    const char* in = at(x, t, d);
    float* out = to.at(row, d);
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
    // as in copy_groups
    if (words == kLanes && (d + kLanes) % to.depth_block != 0 && d + kLanes < x.cols) {
      transpose(r, out, kMr);
    } else {
      float square[kLanes * kLanes];
      transpose(r, square, kLanes);
      for (int64_t i = 0; i < words; ++i)
        __builtin_memcpy(out + i * kMr, square + i * kLanes, kMr * 4);
    }
  }
}

// By groups, or else bf16 rows as [rows][k] (few columns: panel() expands a tile at a time); fp32
// rows are read in place.
void prepare(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows) {
  float* out = static_cast<float*>(chunk->prepared);
  const GemmMatrix& x = job->x;
  if (chunk->groups) {
    const Groups first = groups_of(out, *chunk, job->k);
    const Groups second = groups_of(out + first.rows * job->k, *chunk, job->r);
    if (job->x_by_depth) copy_groups(x, t0, rows, first, t0 - chunk->begin);
    for (int64_t t = t0; t < t0 + rows; t += kMr) {
      const int64_t count = min_of(kMr, t0 + rows - t);
      if (!job->x_by_depth) pack_group(x, t, count, first, t - chunk->begin);
      if (job->r > 0) pack_group(job->x2, t, count, second, t - chunk->begin);
    }
    return;
  }
  if (x.type == GemmElem::f32) return;
  for (int64_t i = 0; i < rows; ++i)
    expand_row(x.type, at(x, t0 + i, 0), job->k, out + (t0 - chunk->begin + i) * job->k);
}

int list_pieces(const GemmJob& job, const GemmChunk& chunk, int64_t t0, Piece* out) {
  float* base = static_cast<float*>(chunk.prepared);
  const int64_t t = t0 - chunk.begin;
  if (chunk.groups) {
    const Groups first = groups_of(base, chunk, job.k);
    out[0] = {{}, &job.w, 0, job.k, false, first, t};
    if (job.r == 0) return 1;
    out[1] = {{}, &job.w2, 0, job.r, true, groups_of(base + first.rows * job.k, chunk, job.r), t};
    return 2;
  }
  Broadcast x;
  if (job.x.type == GemmElem::f32) {
    x = by_rows(at(job.x, t0, 0), job.x.stride);
  } else if (chunk.prepared == nullptr) {
    x = raw_rows(at(job.x, t0, 0), job.x.stride);
  } else {
    x = by_rows(reinterpret_cast<const char*>(base + t * job.k), job.k * 4);
  }
  out[0] = {x, &job.w, 0, job.k, false};
  if (job.r == 0) return 1;
  out[1] = {by_rows(at(job.x2, t0, 0), job.x2.stride), &job.w2, 0, job.r, true};
  return 2;
}
