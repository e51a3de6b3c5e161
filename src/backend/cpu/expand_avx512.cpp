// gcc 12 takes the undefined operands of its own intrinsics for our mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "backend/cpu/expand_fp8.h"

namespace hone::cpu {
namespace {

// As in expand_avx2.cpp.
inline __m512 sixteen(const uint8_t* in, __m512 scale) {
  const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
  const __m256i size = _mm256_and_si256(b, _mm256_set1_epi16(0x7f));
  const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(size, _mm256_set1_epi16(0x7f)),
                                       _mm256_set1_epi16(0x7e00));
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x80)), 8);
  const __m256i half = _mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16(size, 7), nan), sign);
  return _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256)), scale);
}

inline __m256i rounded(__m512 v) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i up =
      _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(up, nan, quiet));
}

void expand(const uint8_t* in, float scale, int64_t n, bool as_bf16, void* out) {
  const __m512 factor = _mm512_set1_ps(scale);
  const int64_t size = as_bf16 ? 2 : 4;
  char* to = static_cast<char*>(out);
  const auto put = [&](const uint8_t* from, char* p) {
    const __m512 v = sixteen(from, factor);
    if (as_bf16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded(v));
    } else {
      _mm512_storeu_ps(p, v);
    }
  };
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) put(in + i, to + i * size);
  if (i == n) return;
  uint8_t last[16] = {};
  char line[64];
  __builtin_memcpy(last, in + i, static_cast<size_t>(n - i));
  put(last, line);
  __builtin_memcpy(to + i * size, line, static_cast<size_t>((n - i) * size));
}

}  // namespace

extern const ExpandFp8 kExpandFp8Avx512 = expand;

}  // namespace hone::cpu
