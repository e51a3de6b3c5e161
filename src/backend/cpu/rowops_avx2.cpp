// AVX2, FMA and F16C: 8 lanes of fp32. Part loads and stores go through a small buffer where there
// is no 16-bit mask.
#include <immintrin.h>

#include "backend/cpu/rowops.h"

#define HONE_LAMBDA __attribute__((always_inline))
namespace hone::cpu {
namespace {

struct Vec {
  using Reg = __m256;
  static constexpr int kWidth = 8;
  static constexpr bool kExact = false;
  static constexpr bool kFused = true;
  struct Part {
    int n;
    __m256i mask() const {
      return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
  };
  template <class E>
  static const E* ptr(const void* p, int64_t i) {
    return static_cast<const E*>(p) + i;
  }
  static __m128i load16(const void* p, int64_t i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(ptr<uint16_t>(p, i)));
  }
  static __m128i load16(const void* p, int64_t i, Part part) {
    uint16_t v[8] = {};
    for (int j = 0; j < part.n; ++j) v[j] = ptr<uint16_t>(p, i)[j];
    return load16(v, 0);
  }
  static Reg widen(__m128i v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  }
  static __m128i narrow(Reg v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i top = _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  }
  static Reg load(F32, const void* p, int64_t i) { return _mm256_loadu_ps(ptr<float>(p, i)); }
  static Reg load(F32, const void* p, int64_t i, Part part) {
    return _mm256_maskload_ps(ptr<float>(p, i), part.mask());
  }
  static Reg load(Bf16, const void* p, int64_t i, auto... part) {
    return widen(load16(p, i, part...));
  }
  static Reg load(F16, const void* p, int64_t i, auto... part) {
    return _mm256_cvtph_ps(load16(p, i, part...));
  }
  template <class Tag>
  static Reg broadcast(Tag tag, const void* p, int64_t i) {
    return _mm256_broadcastss_ps(_mm256_castps256_ps128(load(tag, p, i, Part{1})));
  }
  static void store(F32, void* p, int64_t i, Reg v) {
    _mm256_storeu_ps(static_cast<float*>(p) + i, v);
  }
  static void store(F32, void* p, int64_t i, Reg v, Part part) {
    _mm256_maskstore_ps(static_cast<float*>(p) + i, part.mask(), v);
  }
  static void store(Bf16, void* p, int64_t i, Reg v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(p) + i), narrow(v));
  }
  static void store(Bf16, void* p, int64_t i, Reg v, Part part) {
    uint16_t out[8];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), narrow(v));
    for (int j = 0; j < part.n; ++j) (static_cast<uint16_t*>(p) + i)[j] = out[j];
  }
  static Reg set(double v) { return _mm256_set1_ps(static_cast<float>(v)); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg sqrt(Reg a) { return _mm256_sqrt_ps(a); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg fnma(Reg a, Reg b, Reg c) { return _mm256_fnmadd_ps(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg round(Reg a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Reg exp(Reg a) { return a; }  // only where kExact
  static Reg keep(Reg a) { return a; }
  static Reg keep(Reg a, Part part) { return _mm256_and_ps(a, _mm256_castsi256_ps(part.mask())); }
  static Reg reciprocal(Reg a) { return _mm256_div_ps(_mm256_set1_ps(1), a); }
  static Reg zero_below(Reg x, Reg limit, Reg v) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ), v);
  }
  static Reg scale(Reg y, Reg n) {
    const Reg normal = _mm256_cmp_ps(n, _mm256_set1_ps(-126), _CMP_NLT_UQ);
    const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_and_ps(normal, _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23))));
  }
  // Philox4x32-10 of four counters b, b + 1, ...: each word in a lane of 64 bits, whose upper half
  // is not used.
  static constexpr int kCounters = 4;
  static void philox(uint64_t seed, uint64_t a, uint64_t b, uint32_t* words) {
    const __m256i wide = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(b)),
                                          _mm256_setr_epi64x(0, 1, 2, 3));
    __m256i c0 = _mm256_set1_epi64x(static_cast<int64_t>(a & 0xffffffffu));
    __m256i c1 = _mm256_set1_epi64x(static_cast<int64_t>(a >> 32));
    __m256i c2 = wide, c3 = _mm256_srli_epi64(wide, 32);
    uint32_t k0 = static_cast<uint32_t>(seed) ^ 0x9E3779B1u;  // Purpose::dropout is 1
    uint32_t k1 = static_cast<uint32_t>(seed >> 32);
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    for (int round = 0; round < 10; ++round) {
      const __m256i p0 = _mm256_mul_epu32(m0, c0), p1 = _mm256_mul_epu32(m1, c2);
      c0 =
          _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), _mm256_set1_epi64x(k0));
      c2 =
          _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(k1));
      c1 = p1;
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    const __m256i first = _mm256_or_si256(_mm256_and_si256(c0, low), _mm256_slli_epi64(c1, 32));
    const __m256i second = _mm256_or_si256(_mm256_and_si256(c2, low), _mm256_slli_epi64(c3, 32));
    const __m256i even = _mm256_unpacklo_epi64(first, second);  // counters 0 and 2
    const __m256i odd = _mm256_unpackhi_epi64(first, second);   // counters 1 and 3
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words),
                        _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8),
                        _mm256_permute2x128_si256(even, odd, 0x31));
  }
  static double sum(Reg a) {
    alignas(32) float v[8];
    _mm256_store_ps(v, a);
    for (int width = 4; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) v[i] += v[i + width];
    }
    return static_cast<double>(v[0]);
  }
  static double max_lane(Reg a) {
    alignas(32) float v[8];
    _mm256_store_ps(v, a);
    float m = v[0];
    for (float e : v) m = e > m ? e : m;
    return static_cast<double>(m);
  }
  static double sum_squares(const float* x, int64_t n) {
    __m256d s[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                    _mm256_setzero_pd()};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      for (int j = 0; j < 4; ++j) {
        const __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * j));
        s[j] = _mm256_fmadd_pd(v, v, s[j]);
      }
    }
    alignas(32) double v[4];
    _mm256_store_pd(v, _mm256_add_pd(_mm256_add_pd(s[0], s[1]), _mm256_add_pd(s[2], s[3])));
    for (; i < n; ++i) v[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return (v[0] + v[1]) + (v[2] + v[3]);
  }
};

#include "backend/cpu/rowops.inc"

}  // namespace

extern const RowOps kRowOpsAvx2 = kOps;

}  // namespace hone::cpu
