// How Format::bf16t lies in memory (bf16t.h says what it is for), and expanding it. Included inside
// an anonymous namespace.
//
// 16 rows make a strip: a header, then a tile of 768 bytes for each 32 columns. The lower byte of a
// number (the exponent's last bit and the mantissa) is stored as it is; of the upper one (the sign
// and the exponent's other bits) 4 bits are: the sign, and how far it is above the tile's base,
// which the header holds, a byte a tile. So 16 powers of two can be told apart, beginning with an
// even one. Base 0 says that the tile's exponents span more (zeros do): it then begins with the
// distance in bytes from itself to the 1024 of its numbers as bf16, behind all strips.
//
// The lower bytes of two rows, a and b, lie as 8 of a, 8 of b, 8 of a, ..., so that they and the
// upper ones are interleaved by one instruction a row; the upper halves of rows c and d beside those
// of a and b.

constexpr int64_t kStripRows = 16, kStripCols = 32, kShortTile = 768, kRawTile = 1024;
constexpr int64_t kUpperBytes = kStripRows * kStripCols;  // where they begin in a tile

[[maybe_unused]] inline int64_t strip_header(int64_t cols) {
  return (cols / kStripCols + 63) / 64 * 64;
}
// Of number (row, col) of a tile among the lower bytes, and among the upper halves, of which rows 2
// and 3 of four have the higher 4 bits.
[[maybe_unused]] inline int64_t lower_at(int64_t row, int64_t col) {
  return row / 2 * 64 + col / 8 * 16 + row % 2 * 8 + col % 8;
}
[[maybe_unused]] inline int64_t upper_at(int64_t row, int64_t col) {
  return lower_at(row / 4 * 2 + row % 2, col);
}
[[maybe_unused]] inline const char* raw_tile(const char* tile) {
  int64_t distance;
  __builtin_memcpy(&distance, tile, 8);
  return tile + distance;
}

#if defined(__AVX512BW__)
// put(row, 32 numbers) for the 16 rows of a tile; base is not 0.
template <class Put>
inline __attribute__((always_inline)) void expand_short(const char* tile, int base, Put put) {
  const __m512i nibble = _mm512_set1_epi8(15);
  // upper bytes by their 4 bits
  const __m512i table =
      _mm512_add_epi8(_mm512_set1_epi8(static_cast<char>(base)),
                      _mm512_broadcast_i32x4(_mm_set_epi8(-121, -122, -123, -124, -125, -126, -127,
                                                          -128, 7, 6, 5, 4, 3, 2, 1, 0)));
  for (int64_t i = 0; i < kStripRows; i += 4) {
    const __m512i both = _mm512_loadu_si512(tile + kUpperBytes + i * (kStripCols / 2));
    const auto two = [&](int64_t row, __m512i nibbles) __attribute__((always_inline)) {
      const __m512i lower = _mm512_loadu_si512(tile + row * kStripCols);
      const __m512i upper = _mm512_shuffle_epi8(table, _mm512_and_si512(nibbles, nibble));
      put(row, _mm512_unpacklo_epi8(lower, upper));
      put(row + 1, _mm512_unpackhi_epi8(lower, upper));
    };
    two(i, both);
    two(i + 2, _mm512_srli_epi16(both, 4));
  }
}
#endif
