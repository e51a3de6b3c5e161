#include <immintrin.h>

#include "backend/cpu/expand_fp8.h"

namespace hone::cpu {
namespace {

// E4M3 moved to where fp16 has its exponent and mantissa is the number times 2^-8, denormal ones
// too; F16C takes those without delay.
inline __m256 eight(const uint8_t* in, __m256 scale) {
  const __m128i b = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in)));
  const __m128i size = _mm_and_si128(b, _mm_set1_epi16(0x7f));
  const __m128i nan =
      _mm_and_si128(_mm_cmpeq_epi16(size, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(b, _mm_set1_epi16(0x80)), 8);
  const __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(size, 7), nan), sign);
  return _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256)), scale);
}

inline __m128i rounded(__m256 v) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i up =
      _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(up, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

void expand(const uint8_t* in, float scale, int64_t n, bool as_bf16, void* out) {
  const __m256 factor = _mm256_set1_ps(scale);
  const int64_t size = as_bf16 ? 2 : 4;
  char* to = static_cast<char*>(out);
  const auto put = [&](const uint8_t* from, char* p) {
    const __m256 v = eight(from, factor);
    if (as_bf16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), rounded(v));
    } else {
      _mm256_storeu_ps(reinterpret_cast<float*>(p), v);
    }
  };
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) put(in + i, to + i * size);
  if (i == n) return;
  uint8_t last[8] = {};
  char line[32];
  __builtin_memcpy(last, in + i, static_cast<size_t>(n - i));
  put(last, line);
  __builtin_memcpy(to + i * size, line, static_cast<size_t>((n - i) * size));
}

}  // namespace

extern const ExpandFp8 kExpandFp8Avx2 = expand;

}  // namespace hone::cpu
