// gemm of few rows with the operands' parts turned: x is packed, tokens side by side, and words of
// w are broadcast from where they lie, so that w passes once and is copied nowhere. y is computed
// as its transpose; the chain over the depth, and so every bit, is that of gemm_words.inl, after
// which this is included.
//
// Prepared: x as strips of kNr tokens, [strip][words][kNr], then each part of x2 likewise.

int64_t words_of(int64_t elements) { return (elements + kWordElems - 1) / kWordElems; }
int64_t pad(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

void prepare_turned(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows) {
  const int64_t words = words_of(job->k), low = words_of(job->r), t = t0 - chunk->begin;
  float* out = static_cast<float*>(chunk->prepared);
  pack_rows(job->x, 0, t0, rows, 0, words, out + t * words);
  out += pad(chunk->rows, kNr) * words;
  for (int part = 0; part < kSecondParts && low > 0; ++part) {
    pack_rows(job->x2, part, t0, rows, 0, low, out + t * low);
    out += pad(chunk->rows, kNr) * low;
  }
}

// y[t0.., n0..) from its transpose c[cols][ldc]; rows of c are there up to a multiple of kLanes.
void finish_turned(const GemmJob& job, const float* c, int64_t ldc, int64_t t0, int64_t rows,
                   int64_t n0, int64_t cols) {
  for (int64_t t = 0; t < rows; t += kLanes) {
    for (int64_t n = 0; n < cols; n += kLanes) {
      Vec r[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) r[i] = load(c + (n + i) * ldc + t);
      float square[kLanes * kLanes];
      transpose(r, square, kLanes);
      finish(job, square, kLanes, t0 + t, min_of<int64_t>(kLanes, rows - t), n0 + n,
             min_of<int64_t>(kLanes, cols - n));
    }
  }
}

// scratch: the parts of w2, [part][cols][words, padded]; sums [cols, padded][tokens, padded].
void panel_turned(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
                  int64_t cols, void* scratch) {
  const int64_t words = words_of(job->k), low = words_of(job->r), low_pad = pad(low, kLanes);
  const int64_t strips = (rows + kNr - 1) / kNr, ldc = strips * kNr, t = t0 - chunk->begin;
  const float* x = static_cast<const float*>(chunk->prepared) + t * words;
  const float* x2 = static_cast<const float*>(chunk->prepared) + pad(chunk->rows, kNr) * words;
  float* w2 = static_cast<float*>(scratch);
  float* sums = w2 + kSecondParts * cols * low_pad;
  for (int part = 0; part < kSecondParts; ++part) {
    for (int64_t n = 0; n < cols; ++n) {
      for (int64_t d = 0; d < low; d += kLanes) {
        store(w2 + (part * cols + n) * low_pad + d,
              row_words(job->w2, part, n0 + n, d, min_of<int64_t>(kLanes, low - d)));
      }
    }
  }
  const int64_t tiles = (cols + kMr - 1) / kMr, mr = (cols + tiles - 1) / tiles;
  for (int64_t d = 0; d < words; d += chunk->depth_block) {
    Tile tile = {};
    tile.alpha = job->alpha;
    tile.ldc = tile.ld_from = ldc;
    const int64_t steps = min_of(chunk->depth_block, words - d);
    const bool last = d + steps == words;
    tile.count = last && low > 0 ? 1 + kSecondProducts : 1;
    tile.scaled = tile.count > 1 && job->alpha != 1 ? 1 : -1;
    // other threads packed most of x
    for (int64_t s = 0; s < strips; ++s) {
      for (int64_t i = 0; i < steps * kNr; i += 16)
        _mm_prefetch(x + (s * words + d) * kNr + i, _MM_HINT_T1);
    }
    for (int64_t n = 0; n < cols; n += mr) {
      const int64_t m = min_of(mr, cols - n);
      // the rows of w that come next: of this block, of the next one, of the next panel
      int64_t next_n = n0 + n + m, next_d = d;
      if (n + m == cols) {
        next_n = last ? n0 + chunk->next_panel : n0;
        next_d = last ? 0 : d + steps;
      }
      const Ahead next = rows_ahead(at(job->w, next_n, next_d * kWordElems), job->w.stride);
      for (int64_t s = 0; s < strips; ++s) {
        tile.runs[0] = {by_rows(at(job->w, n0 + n, d * kWordElems), job->w.stride),
                        x + (s * words + d) * kNr, steps};
        for (int i = 1; i < tile.count; ++i) {
          const SecondProduct& product = kSecond[i - 1];
          tile.runs[i] = {
              by_rows(reinterpret_cast<const char*>(w2 + (product.w * cols + n) * low_pad),
                      low_pad * 4),
              x2 + (product.x * pad(chunk->rows, kNr) + t + s * kNr) * low, low};
        }
        tile.ahead = s == 0 && next_n < job->n ? next : Ahead{tile.runs[0].a.data, 0, 0, 16};
        tile.c = sums + n * ldc + s * kNr;
        tile.from = d > 0 ? tile.c : nullptr;
        multiply_tile(tile, m, min_of(kNr, rows - s * kNr));
      }
    }
  }
  finish_turned(*job, sums, ldc, t0, rows, n0, cols);
}
