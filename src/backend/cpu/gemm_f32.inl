// Words of gemm_words.inl that are fp32: everything is expanded to fp32, exactly. After
// gemm_vec.inl.

constexpr int64_t kWordElems = 1;
[[maybe_unused]] constexpr int kMaxPieces = 2;

constexpr int kSecondParts = 1, kSecondProducts = 1;
constexpr SecondProduct kSecond[kSecondProducts] = {{0, 0}};

#if defined(__AVX512F__)
inline Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#else
// Of 16 registers the compiler frees some by moving sums about and to memory, if it may choose.
inline Vec multiply_add(Vec a, Vec b, Vec c) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
  return c;
}
#endif

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
