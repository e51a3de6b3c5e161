// Words that are a pair of bf16 neighbours along the depth (AVX-512 only). An fp32 matrix counts as
// two: its values rounded to bf16 and what is left of them, rounded; x2 w2 as three products of
// such parts. After gemm_vec.inl.

[[maybe_unused]] constexpr int64_t kWordElems = 2;
[[maybe_unused]] constexpr int kMaxPieces = 5;

[[maybe_unused]] constexpr int kSecondParts = 2, kSecondProducts = 3;
[[maybe_unused]] constexpr SecondProduct kSecond[kSecondProducts] = {{0, 0}, {1, 0}, {0, 1}};

// The bf16 in the upper half of each lane (the lower half is zero). part 1 of a value that isn't
// finite is 0.
inline __m512i upper(GemmElem type, int part, const char* p, int64_t count) {
  const Vec v = expand_some(type, p, count);
  if (type == GemmElem::bf16) return _mm512_castps_si512(v);
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const auto rounded = [&](Vec f) {
    const __m512i u = _mm512_castps_si512(f);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    return _mm512_and_si512(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))),
                            mask);
  };
  // exponent all ones: kept as it is, a NaN stays one
  const __m512i u = _mm512_castps_si512(v);
  const __m512i exponent = _mm512_set1_epi32(0x7f800000);
  const __mmask16 infinite = _mm512_cmpeq_epi32_mask(_mm512_and_si512(u, exponent), exponent);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  __m512i high = _mm512_mask_mov_epi32(rounded(v), infinite, u);
  high = _mm512_mask_mov_epi32(high, nan, _mm512_set1_epi32(0x7fc00000));
  if (part == 0) return high;
  return _mm512_maskz_mov_epi32(static_cast<__mmask16>(~infinite),
                                rounded(_mm512_sub_ps(v, _mm512_castsi512_ps(high))));
}

// Whether kLanes words of a row from word d lie in w as they are.
[[maybe_unused]] inline bool plain_words(const GemmMatrix& w, int64_t d) {
  return w.type == GemmElem::bf16 && 2 * (d + kLanes) <= w.cols;
}

// words pairs (2 d, 2 d + 1), (2 d + 2, ...) of row n; zeros behind the last column.
inline Vec row_words(const GemmMatrix& w, int part, int64_t n, int64_t d, int64_t words) {
  const int64_t count = min_of(2 * words, w.cols - 2 * d);
  if (w.type == GemmElem::bf16) {
    const char* p = at(w, n, 2 * d);
    if (count >= 32) return _mm512_castsi512_ps(_mm512_loadu_si512(p));
    const __mmask32 some = static_cast<__mmask32>((uint64_t{1} << count) - 1);
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(some, p));
  }
  const __m512i a = upper(w.type, part, at(w, n, 2 * d), count);
  const __m512i b =
      count > 16 ? upper(w.type, part, at(w, n, 2 * d + 16), count - 16) : _mm512_setzero_si512();
  const __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(a, 16));
  const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(b, 16));
  return _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

// A line of bf16 pairs as words.
[[maybe_unused]] inline void line_words(__m512i pairs, Vec (&words)[1]) {
  words[0] = _mm512_castsi512_ps(pairs);
}

// The pair of rows 2 d, 2 d + 1 in columns n.. of a matrix that lies by depth.
inline Vec column_words(const GemmMatrix& w, int part, int64_t d, int64_t n, int64_t count) {
  const __m512i a = upper(w.type, part, at(w, 2 * d, n), count);
  const __m512i b =
      2 * d + 1 < w.rows ? upper(w.type, part, at(w, 2 * d + 1, n), count) : _mm512_setzero_si512();
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(a, 16), b));
}
