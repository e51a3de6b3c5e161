// AVX-512 (F, BW, VL, DQ): 16 lanes of fp32. bf16 is rounded with integers: the hardware conversion
// flushes denormals. gcc 12 warns of its own header's undefined vectors.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "backend/cpu/rowops.h"

#define HONE_LAMBDA __attribute__((always_inline))
namespace hone::cpu {
namespace {

struct Vec {
  using Reg = __m512;
  static constexpr int kWidth = 16;
  static constexpr bool kExact = false;
  static constexpr bool kFused = true;
  struct Part {
    int n;
    __mmask16 mask() const { return static_cast<__mmask16>((1u << n) - 1); }
  };
  template <class E>
  static const E* ptr(const void* p, int64_t i) {
    return static_cast<const E*>(p) + i;
  }
  // Word i of 16 to the upper half of lane i, in one permutation.
  static Reg widen(__m256i v) {
    const __m512i from =
        _mm512_set_epi32(15 << 16, 14 << 16, 13 << 16, 12 << 16, 11 << 16, 10 << 16, 9 << 16,
                         8 << 16, 7 << 16, 6 << 16, 5 << 16, 4 << 16, 3 << 16, 2 << 16, 1 << 16, 0);
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xAAAAAAAAu, from, _mm512_castsi256_si512(v)));
  }
  // To nearest even. A NaN is cut: results of arithmetic are quiet, so it stays a NaN.
  static __m256i narrow(Reg v) {
    const __m512i u = _mm512_castps_si512(v);
    const __mmask16 number = _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
    const __mmask16 odd = _mm512_mask_test_epi32_mask(number, u, _mm512_set1_epi32(0x10000));
    __m512i r = _mm512_mask_add_epi32(u, number, u, _mm512_set1_epi32(0x7fff));
    r = _mm512_mask_add_epi32(r, odd, r, _mm512_set1_epi32(1));
    // The upper word of each lane, in one permutation.
    const __m512i upper =
        _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 31 << 16 | 29, 27 << 16 | 25, 23 << 16 | 21,
                         19 << 16 | 17, 15 << 16 | 13, 11 << 16 | 9, 7 << 16 | 5, 3 << 16 | 1);
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, r));
  }
  static Reg load(F32, const void* p, int64_t i) { return _mm512_loadu_ps(ptr<float>(p, i)); }
  static Reg load(F32, const void* p, int64_t i, Part part) {
    return _mm512_maskz_loadu_ps(part.mask(), ptr<float>(p, i));
  }
  static Reg load(Bf16, const void* p, int64_t i) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(ptr<uint16_t>(p, i))));
  }
  static Reg load(Bf16, const void* p, int64_t i, Part part) {
    return widen(_mm256_maskz_loadu_epi16(part.mask(), ptr<uint16_t>(p, i)));
  }
  static Reg load(F16, const void* p, int64_t i) {
    return _mm512_cvtph_ps(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ptr<uint16_t>(p, i))));
  }
  static Reg load(F16, const void* p, int64_t i, Part part) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(part.mask(), ptr<uint16_t>(p, i)));
  }
  template <class Tag>
  static Reg broadcast(Tag tag, const void* p, int64_t i) {
    return _mm512_broadcastss_ps(_mm512_castps512_ps128(load(tag, p, i, Part{1})));
  }
  static void store(F32, void* p, int64_t i, Reg v) {
    _mm512_storeu_ps(static_cast<float*>(p) + i, v);
  }
  static void store(F32, void* p, int64_t i, Reg v, Part part) {
    _mm512_mask_storeu_ps(static_cast<float*>(p) + i, part.mask(), v);
  }
  static void store(Bf16, void* p, int64_t i, Reg v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(p) + i), narrow(v));
  }
  static void store(Bf16, void* p, int64_t i, Reg v, Part part) {
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(p) + i, part.mask(), narrow(v));
  }
  static Reg set(double v) { return _mm512_set1_ps(static_cast<float>(v)); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg sqrt(Reg a) { return _mm512_sqrt_ps(a); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg fnma(Reg a, Reg b, Reg c) { return _mm512_fnmadd_ps(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg round(Reg a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Reg exp(Reg a) { return a; }  // only where kExact
  static Reg keep(Reg a) { return a; }
  static Reg keep(Reg a, Part part) { return _mm512_maskz_mov_ps(part.mask(), a); }
  static Reg reciprocal(Reg a) {
    const Reg r = _mm512_rcp14_ps(a);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1)), r);
  }
  static Reg zero_below(Reg x, Reg limit, Reg v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ), v);
  }
  static Reg scale(Reg y, Reg n) {
    const __mmask16 normal = _mm512_cmp_ps_mask(n, _mm512_set1_ps(-126), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(normal, y, n);
  }
  // Philox4x32-10 of eight counters b, b + 1, ...: each word in a lane of 64 bits, whose upper half
  // is not used.
  static constexpr int kCounters = 8;
  static void philox(uint64_t seed, uint64_t a, uint64_t b, uint32_t* words) {
    const __m512i wide = _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(b)),
                                          _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
    __m512i c0 = _mm512_set1_epi64(static_cast<int64_t>(a & 0xffffffffu));
    __m512i c1 = _mm512_set1_epi64(static_cast<int64_t>(a >> 32));
    __m512i c2 = wide, c3 = _mm512_srli_epi64(wide, 32);
    uint32_t k0 = static_cast<uint32_t>(seed) ^ 0x9E3779B1u;  // Purpose::dropout is 1
    uint32_t k1 = static_cast<uint32_t>(seed >> 32);
    const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
    for (int round = 0; round < 10; ++round) {
      const __m512i p0 = _mm512_mul_epu32(m0, c0), p1 = _mm512_mul_epu32(m1, c2);
      c0 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p1, 32), c1), _mm512_set1_epi64(k0));
      c2 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p0, 32), c3), _mm512_set1_epi64(k1));
      c1 = p1;
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const __m512i low = _mm512_set1_epi64(0xffffffff);
    const __m512i first = _mm512_or_si512(_mm512_and_si512(c0, low), _mm512_slli_epi64(c1, 32));
    const __m512i second = _mm512_or_si512(_mm512_and_si512(c2, low), _mm512_slli_epi64(c3, 32));
    _mm512_storeu_si512(words, _mm512_permutex2var_epi64(
                                   first, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), second));
    _mm512_storeu_si512(
        words + 16,
        _mm512_permutex2var_epi64(first, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), second));
  }
  static double sum(Reg a) {
    alignas(64) float v[16];
    _mm512_store_ps(v, a);
    for (int width = 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) v[i] += v[i + width];
    }
    return static_cast<double>(v[0]);
  }
  static double max_lane(Reg a) {
    alignas(64) float v[16];
    _mm512_store_ps(v, a);
    float m = v[0];
    for (float e : v) m = e > m ? e : m;
    return static_cast<double>(m);
  }
  static double sum_squares(const float* x, int64_t n) {
    __m512d s[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(),
                    _mm512_setzero_pd()};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
      for (int j = 0; j < 4; ++j) {
        const __m512d v = _mm512_cvtps_pd(_mm256_loadu_ps(x + i + 8 * j));
        s[j] = _mm512_fmadd_pd(v, v, s[j]);
      }
    }
    for (; i < n; i += 8) {
      const int64_t left = n - i < 8 ? n - i : 8;
      const __mmask8 mask = static_cast<__mmask8>((1u << left) - 1);
      const __m512d v = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(mask, x + i));
      s[0] = _mm512_fmadd_pd(v, v, s[0]);
    }
    const __m512d all = _mm512_add_pd(_mm512_add_pd(s[0], s[1]), _mm512_add_pd(s[2], s[3]));
    return _mm512_reduce_add_pd(all);
  }
};

#include "backend/cpu/rowops.inc"

}  // namespace

extern const RowOps kRowOpsAvx512 = kOps;

}  // namespace hone::cpu
