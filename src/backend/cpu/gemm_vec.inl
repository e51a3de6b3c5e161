// Vectors of fp32 and what every vector path of gemm does with them: expand, transpose, finish.
// Included inside an anonymous namespace of a file compiled for one instruction set.

#if defined(__AVX512F__)
constexpr int kLanes = 16, kVecs = 2;
constexpr int64_t kMr = kGemmWordsRows512;
using Vec = __m512;
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec splat(float f) { return _mm512_set1_ps(f); }
inline Vec splat_word(const char* p) {
  float f;
  __builtin_memcpy(&f, p, 4);
  return _mm512_set1_ps(f);
}
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec plus(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec expand_bf16(const void* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16));
}
inline Vec expand_f16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
#if defined(__AVX512BF16__)
// Denormals become zero, as in the products.
inline void store_bf16(void* p, Vec v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}
#else
inline void store_bf16(void* p, Vec v) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
}
#endif
// out row i (out_stride floats apart) becomes column i of the square r; rows are stored in
// ascending order.
inline void transpose(Vec (&r)[16], float* out, int64_t out_stride) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_castps_si512(r[i]);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
  // b[i] holds lanes 0 and 2 (i < 4) or 1 and 3 of the four row groups
  for (int i = 0; i < 8; ++i)
    _mm512_storeu_si512(out + i * out_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
  for (int i = 0; i < 8; ++i)
    _mm512_storeu_si512(out + (i + 8) * out_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
}
#else
constexpr int kLanes = 8, kVecs = 2;
constexpr int64_t kMr = kGemmWordsRows256;
using Vec = __m256;
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec splat(float f) { return _mm256_set1_ps(f); }
inline Vec splat_word(const char* p) {
  float f;
  __builtin_memcpy(&f, p, 4);
  return _mm256_set1_ps(f);
}
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec plus(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec expand_bf16(const void* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))), 16));
}
inline Vec expand_f16(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline void store_bf16(void* p, Vec v) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm_packus_epi32(_mm256_castsi256_si128(words),
                                                              _mm256_extracti128_si256(words, 1)));
}
inline void transpose(Vec (&r)[8], float* out, int64_t out_stride) {
  Vec a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i)
    store(out + i * out_stride, _mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
  for (int i = 0; i < 4; ++i)
    store(out + (i + 4) * out_stride, _mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
}
#endif

template <class T>
T min_of(T a, T b) {
  return a < b ? a : b;
}
int64_t elem_bytes(GemmElem e) { return e == GemmElem::f32 ? 4 : 2; }
const char* at(const GemmMatrix& m, int64_t row, int64_t col) {
  return static_cast<const char*>(m.data) + row * m.stride + col * elem_bytes(m.type);
}

[[maybe_unused]] float* floats(const GemmMatrix& m, int64_t row, int64_t col) {
  return reinterpret_cast<float*>(const_cast<char*>(at(m, row, col)));
}

[[maybe_unused]] float scalar(GemmElem type, const char* p) {
  if (type == GemmElem::f32) {
    float f;
    __builtin_memcpy(&f, p, 4);
    return f;
  }
  uint16_t h;
  __builtin_memcpy(&h, p, 2);
  if (type == GemmElem::f16) return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}

[[maybe_unused]] Vec expand(GemmElem type, const char* p) {
  if (type == GemmElem::f32) return load(reinterpret_cast<const float*>(p));
  return type == GemmElem::bf16 ? expand_bf16(p) : expand_f16(p);
}

// count <= kLanes elements, zeros behind them.
[[maybe_unused]] Vec expand_some(GemmElem type, const char* p, int64_t count) {
  if (count >= kLanes) return expand(type, p);
#if defined(__AVX512F__)
  const __mmask16 some = static_cast<__mmask16>((1u << count) - 1);
  if (type == GemmElem::f32) return _mm512_maskz_loadu_ps(some, p);
  const __m256i halves = _mm256_maskz_loadu_epi16(some, p);
  if (type == GemmElem::f16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
#else
  if (type == GemmElem::f32) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(reinterpret_cast<const float*>(p),
                              _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane));
  }
  float f[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) f[i] = scalar(type, p + i * elem_bytes(type));
  return load(f);
#endif
}

[[maybe_unused]] void expand_row(GemmElem type, const char* in, int64_t count, float* out) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store(out + j, expand(type, in + j * elem_bytes(type)));
  for (; j < count; ++j) out[j] = scalar(type, in + j * elem_bytes(type));
}

[[maybe_unused]] uint16_t round_bf16(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

// Asks for a line that will be written.
inline void fetch_to_write(const char* p) { __asm__ volatile("prefetchw %0" : : "m"(*p)); }

// Whether y is the sums as they are, or they and an fp32 add.
[[maybe_unused]] bool plain_sums(const GemmJob& job) {
  return job.y.type == GemmElem::f32 && (job.alpha == 1 || job.r > 0) && job.bias.data == nullptr &&
         (job.add.data == nullptr || job.add.type == GemmElem::f32);
}

// y[t0.., n0..) from c[rows][ldc]: alpha (where not applied before), bias, add, one rounding.
[[maybe_unused]] void finish(const GemmJob& job, const float* c, int64_t ldc, int64_t t0,
                             int64_t rows, int64_t n0, int64_t cols) {
  const GemmElem type = job.y.type, add_type = job.add.type;
  const int64_t y_stride = job.y.stride, add_stride = job.add.stride;
  const bool scale = job.alpha != 1 && job.r == 0, has_bias = job.bias.data != nullptr;
  const Vec alpha = splat(job.alpha);
  for (int64_t n = 0; n < cols; n += kLanes) {
    const int64_t count = min_of<int64_t>(kLanes, cols - n);
    const bool whole = count == kLanes;
    const Vec bias = has_bias ? expand_some(job.bias.type, at(job.bias, 0, n0 + n), count) : zero();
    char* y = const_cast<char*>(at(job.y, t0, n0 + n));
    const char* add = job.add.data ? at(job.add, t0, n0 + n) : nullptr;
    const auto value = [&](int64_t t) __attribute__((always_inline)) {
      Vec v = load(c + t * ldc + n);
      if (scale) v = mul(v, alpha);
      if (has_bias) v = plus(v, bias);
      if (add) v = plus(v, expand_some(add_type, add + t * add_stride, count));
      return v;
    };
    if (whole && type == GemmElem::bf16) {
      for (int64_t t = 0; t < rows; ++t) store_bf16(y + t * y_stride, value(t));
    } else if (whole) {
      for (int64_t t = 0; t < rows; ++t)
        store(reinterpret_cast<float*>(y + t * y_stride), value(t));
    } else {
      for (int64_t t = 0; t < rows; ++t) {
        float line[kLanes];
        if (type == GemmElem::bf16) {
          store_bf16(line, value(t));
        } else {
          store(line, value(t));
        }
        __builtin_memcpy(y + t * y_stride, line,
                         static_cast<size_t>(count) * (type == GemmElem::bf16 ? 2 : 4));
      }
    }
  }
}

// The operand a register tile broadcasts from: word (row, depth) at data + row * row_bytes + depth
// * depth_bytes. groups: that holds within a group of kMr rows, words of the depth side by side.
// raw: words are bf16 yet, to be expanded first.
struct Broadcast {
  const char* data;
  int64_t row_bytes, depth_bytes;
  bool groups, raw;
};
inline Broadcast by_rows(const char* data, int64_t row_bytes) {
  return {data, row_bytes, 4, false, false};
}
[[maybe_unused]] inline Broadcast raw_rows(const char* data, int64_t row_bytes) {
  return {data, row_bytes, 2, false, true};
}
// From row t and word d of the depth.
[[maybe_unused]] inline Broadcast tile_of(Broadcast x, int64_t t, int64_t d) {
  x.data += t * x.row_bytes + d * x.depth_bytes;
  return x;
}

// x as GemmChunk.groups has it: whole groups of rows (zeros, or what lies there, behind the last
// one), blocks of the depth.
struct Groups {
  float* data;
  int64_t rows, depth, depth_block;
  // Words of the block that d is in.
  int64_t steps(int64_t d) const {
    return min_of(depth_block, depth - d / depth_block * depth_block);
  }
  // Word d of row t, the first of a group.
  float* at(int64_t t, int64_t d) const {
    const int64_t in_block = d % depth_block;
    return data + (d - in_block) * rows + t * steps(d) + in_block * kMr;
  }
  // What a tile multiplies from there on: up to the end of the block.
  Broadcast tile(int64_t t, int64_t d) const {
    return {reinterpret_cast<const char*>(at(t, d)), 4, kMr * 4, true, false};
  }
};
inline int64_t whole_groups(int64_t rows) { return (rows + kMr - 1) / kMr * kMr; }

// One product of the sum: words of x against words of w, depth words each.
struct Piece {
  Broadcast x;  // from the panel's first row on; or:
  const GemmMatrix* w;
  int part;
  int64_t depth;
  bool second;
  Groups groups = {};  // where data isn't null, and the panel's first row is number row of them
  int64_t row = 0;
  // From row t of the panel, and a first word of a block.
  Broadcast x_from(int64_t t, int64_t d) const {
    return groups.data != nullptr ? groups.tile(row + t, d) : tile_of(x, t, d);
  }
};
// x2 w2 of fp32 is the sum of kSecond, in order: such a part of x2 times such a part of w2.
struct SecondProduct {
  int x, w;
};

#include "backend/bf16t.inl"
// The strip that begins with row n of a matrix in strips.
[[maybe_unused]] inline PackedStrip strip_at(const GemmMatrix& m, int64_t n) {
  return {static_cast<const char*>(m.data) + n * m.stride, m.cols};
}
