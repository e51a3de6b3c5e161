// What the tile paths share: the depth of a product in steps, parts of fp32 operands, and finishing
// rows. Included inside an anonymous namespace after gemm_pairs.inl.

constexpr int64_t kTileBytes = 1024, kStepBytes = 2 * kTileBytes;
constexpr int64_t kBlock = kGemmTileRows;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Steps of the depth: x against w, then x2's parts, laid end to end, against those of w2.
struct Depth {
  int64_t main, parts, second;
  int64_t total() const { return main + second; }
};
Depth depth_of(const GemmJob& job) {
  return {ceil_div(job.k, 32), job.w.type == GemmElem::f32 ? 2 : 1, ceil_div(3 * job.r, 32)};
}

// Row of a second operand as its parts end to end, from element e0: x2 gives (high, low, high), w2
// (high, high, low). 32 elements.
void split_row(const char* row, int64_t r, bool of_x, int64_t e0, uint16_t* out) {
  for (int64_t e = 0; e < 32; ++e) out[e] = 0;
  for (int64_t third = 0; third < 3; ++third) {
    const int part = third == (of_x ? 1 : 2);
    const int64_t from = e0 > third * r ? e0 - third * r : 0;
    const int64_t to = min_of(r, e0 + 32 - third * r);
    for (int64_t i = from; i < to; i += 16) {
      const int64_t some = min_of<int64_t>(16, to - i);
      const __m512i v = _mm512_srli_epi32(upper(GemmElem::f32, part, row + i * 4, some), 16);
      _mm512_mask_cvtepi32_storeu_epi16(out + third * r + i - e0,
                                        static_cast<__mmask16>((1u << some) - 1), v);
    }
  }
}

// What is done between the tile instructions: rows of a finished block are rounded and stored,
// memory is fetched into L2.
struct Between {
  // the finished block: c[32][32]
  const float* c = nullptr;
  char* y = nullptr;
  const char* add = nullptr;
  const float* bias = nullptr;
  int64_t y_stride = 0, add_stride = 0;
  int64_t row = 0, rows = 0, rows_per_step = 0;
  __mmask32 columns = 0;
  bool y_bf16 = false, add_bf16 = false, scale = false;
  float alpha = 1;
  // rows of y that will be written soon
  char* ahead = nullptr;
  // what to fetch
  const char *fetch = nullptr, *fetch_end = nullptr;
  const char *line = nullptr, *row_begin = nullptr;
  int64_t rows_left = 0, row_bytes = 0, row_stride = 0;
  int64_t lines_per_step = 0;

  inline void finish_row() {
    Vec low = load(c + row * 32), high = load(c + row * 32 + 16);
    const __mmask16 first = static_cast<__mmask16>(columns),
                    second = static_cast<__mmask16>(columns >> 16);
    if (scale) {
      low = mul(low, splat(alpha));
      high = mul(high, splat(alpha));
    }
    if (bias) {
      low = plus(low, load(bias));
      high = plus(high, load(bias + 16));
    }
    if (add) {
      const char* from = add + row * add_stride;
      if (add_bf16) {
        const __m512i both = _mm512_maskz_loadu_epi16(columns, from);
        low = plus(low, _mm512_castsi512_ps(_mm512_slli_epi32(
                            _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both)), 16)));
        high = plus(high, _mm512_castsi512_ps(_mm512_slli_epi32(
                              _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1)), 16)));
      } else {
        low = plus(low, _mm512_maskz_loadu_ps(first, from));
        high = plus(high, _mm512_maskz_loadu_ps(second, from + 64));
      }
    }
    char* to = y + row * y_stride;
    if (ahead) {
      fetch_to_write(ahead + row * y_stride);
      if (!y_bf16) fetch_to_write(ahead + row * y_stride + 64);
    }
    if (y_bf16) {
      _mm512_mask_storeu_epi16(to, columns,
                               reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    } else {
      _mm512_mask_storeu_ps(to, first, low);
      _mm512_mask_storeu_ps(to + 64, second, high);
    }
    ++row;
  }
  void flush() {
    while (row < rows) finish_row();
  }
  inline void step() {
    const int64_t to = min_of(rows, row + rows_per_step);
    while (row < to) finish_row();
    if (rows_left > 0) {
      for (int64_t i = 0; i < lines_per_step; ++i) _mm_prefetch(line + i * 64, _MM_HINT_T1);
      line += lines_per_step * 64;
      if (line >= row_begin + row_bytes) {
        line = row_begin += row_stride;
        --rows_left;
      }
    } else if (fetch < fetch_end) {
      for (int64_t i = 0; i < lines_per_step; ++i) _mm_prefetch(fetch + i * 64, _MM_HINT_T1);
      fetch += lines_per_step * 64;
    }
  }
};
