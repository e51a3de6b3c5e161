// How Format::bf16t lies in memory (bf16t.h says what it is for), and expanding it. Included inside
// an anonymous namespace.
//
// 16 rows make a strip: a header, then a tile of 768 bytes for each 32 columns. A tile expands to
// 16 lines, one for each pair of columns: the pairs of the 16 rows side by side, as products along
// the columns want them. The lower byte of a number (the exponent's last bit and the mantissa) is
// stored as it is; of the upper one (the sign and the exponent's other bits) 4 bits are: the sign,
// and how far it is above the tile's base, which the header holds, a byte a tile. So 16 powers of
// two can be told apart, beginning with an even one. Base 0 says that the tile's exponents span
// more (zeros do): it then begins with the distance in bytes from itself to its 16 lines as bf16,
// behind all strips.
//
// The lower bytes of two lines, a and b, lie as 8 of a, 8 of b, 8 of a, ..., so that they and the
// upper ones are interleaved by one instruction a line; the upper halves of lines c and d beside
// those of a and b.

constexpr int64_t kStripCols = 16, kStripDepth = 32, kShortTile = 768, kRawTile = 1024;
constexpr int64_t kTileLines = 16, kLineNumbers = 32;
constexpr int64_t kUpperBytes = 512;  // where they begin in a tile

[[maybe_unused]] inline int64_t strip_header(int64_t cols) {
  return (cols / kStripDepth + 63) / 64 * 64;
}
// Of a number of a line among the lower bytes, and among the upper halves, of which lines 2 and 3
// of four have the higher 4 bits.
[[maybe_unused]] inline int64_t lower_at(int64_t line, int64_t number) {
  return line / 2 * 64 + number / 8 * 16 + line % 2 * 8 + number % 8;
}
[[maybe_unused]] inline int64_t upper_at(int64_t line, int64_t number) {
  return lower_at(line / 4 * 2 + line % 2, number);
}
[[maybe_unused]] inline int64_t upper_shift(int64_t line) { return line % 4 / 2 * 4; }
[[maybe_unused]] inline const char* raw_tile(const char* tile) {
  int64_t distance;
  __builtin_memcpy(&distance, tile, 8);
  return tile + distance;
}

#if defined(__AVX512BW__)
// put(line, its 32 numbers) for the lines of a tile; base is not 0.
template <class Put>
inline __attribute__((always_inline)) void expand_short(const char* tile, int base, Put put) {
  const __m512i nibble = _mm512_set1_epi8(15);
  // upper bytes by their 4 bits
  const __m512i table =
      _mm512_add_epi8(_mm512_set1_epi8(static_cast<char>(base)),
                      _mm512_broadcast_i32x4(_mm_set_epi8(-121, -122, -123, -124, -125, -126, -127,
                                                          -128, 7, 6, 5, 4, 3, 2, 1, 0)));
  for (int64_t i = 0; i < kTileLines; i += 4) {
    const __m512i both = _mm512_loadu_si512(tile + kUpperBytes + i * 16);
    const auto two = [&](int64_t line, __m512i nibbles) __attribute__((always_inline)) {
      const __m512i lower = _mm512_loadu_si512(tile + line * 32);
      const __m512i upper = _mm512_shuffle_epi8(table, _mm512_and_si512(nibbles, nibble));
      put(line, _mm512_unpacklo_epi8(lower, upper));
      put(line + 1, _mm512_unpackhi_epi8(lower, upper));
    };
    two(i, both);
    two(i + 2, _mm512_srli_epi16(both, 4));
  }
}
#elif defined(__AVX2__)
// put(line, half, its 16 numbers).
template <class Put>
inline __attribute__((always_inline)) void expand_short(const char* tile, int base, Put put) {
  const auto load = [](const char* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  };
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i table =
      _mm256_add_epi8(_mm256_set1_epi8(static_cast<char>(base)),
                      _mm256_broadcastsi128_si256(_mm_set_epi8(
                          -121, -122, -123, -124, -125, -126, -127, -128, 7, 6, 5, 4, 3, 2, 1, 0)));
  for (int64_t i = 0; i < kTileLines; i += 4) {
    for (int64_t half = 0; half < 2; ++half) {
      const __m256i both = load(tile + kUpperBytes + i * 16 + half * 32);
      const auto two = [&](int64_t line, __m256i nibbles) __attribute__((always_inline)) {
        const __m256i lower = load(tile + line * 32 + half * 32);
        const __m256i upper = _mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, nibble));
        put(line, half, _mm256_unpacklo_epi8(lower, upper));
        put(line + 1, half, _mm256_unpackhi_epi8(lower, upper));
      };
      two(i, both);
      two(i + 2, _mm256_srli_epi16(both, 4));
    }
  }
}
#endif

#if defined(__AVX2__)
// Asks for a tile.
inline __attribute__((always_inline)) void fetch_tile(const char* tile) {
#pragma GCC unroll 1
  for (int64_t i = 0; i < kShortTile; i += 64) _mm_prefetch(tile + i, _MM_HINT_T0);
}

// 16 rows of a matrix: all that products know of the format. Tile t holds columns 32 t and on.
struct PackedStrip {
  const char* header;
  const char* tiles;

  PackedStrip(const char* rows, int64_t cols) : header(rows), tiles(rows + strip_header(cols)) {}
  // The strip so many bytes further.
  PackedStrip after(int64_t bytes) const {
    PackedStrip strip = *this;
    strip.header += bytes;
    strip.tiles += bytes;
    return strip;
  }
  const char* tile(int64_t t) const { return tiles + t * kShortTile; }
  int base(int64_t t) const { return static_cast<uint8_t>(header[t]); }
  // Its 16 lines, where they lie as they are; null: expand() gives them.
  const char* plain(int64_t t) const { return base(t) == 0 ? raw_tile(tile(t)) : nullptr; }
  template <class Put>
  inline __attribute__((always_inline)) void expand(int64_t t, Put put) const {
    expand_short(tile(t), base(t), put);
  }
};
#endif
