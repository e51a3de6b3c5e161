// AMX without AMX, for tests (HONE_EMULATE_AMX): the tile instructions as functions on registers in
// memory, after the pseudocode of Intel's Software Developer's Manual, volume 2. Needs AVX-512.
// Included inside an anonymous namespace, after immintrin.h and before what uses tiles.

struct EmulatedTiles {
  alignas(64) uint8_t config[64] = {};
  alignas(64) char tile[8][1024] = {};

  int64_t rows(int t) const { return config[48 + t]; }
  int64_t row_bytes(int t) const { return config[16 + 2 * t] | config[17 + 2 * t] << 8; }
};

inline EmulatedTiles& emulated() {
  thread_local EmulatedTiles tiles;
  return tiles;
}

inline void emulated_config(const void* config) {
  EmulatedTiles& e = emulated();
  __builtin_memcpy(e.config, config, 64);
  __builtin_memset(e.tile, 0, sizeof e.tile);
}

inline void emulated_zero(int t) { __builtin_memset(emulated().tile[t], 0, 1024); }

inline void emulated_load(int t, const void* from, int64_t stride) {
  EmulatedTiles& e = emulated();
  if (e.rows(t) == 0) __builtin_trap();  // a fault: no configuration
  __builtin_memset(e.tile[t], 0, 1024);
  for (int64_t i = 0; i < e.rows(t); ++i) {
    __builtin_memcpy(e.tile[t] + i * 64, static_cast<const char*>(from) + i * stride,
                     static_cast<size_t>(e.row_bytes(t)));
  }
}

inline void emulated_store(int t, void* to, int64_t stride) {
  EmulatedTiles& e = emulated();
  if (e.rows(t) == 0) __builtin_trap();
  for (int64_t i = 0; i < e.rows(t); ++i) {
    __builtin_memcpy(static_cast<char*>(to) + i * stride, e.tile[t] + i * 64,
                     static_cast<size_t>(e.row_bytes(t)));
  }
}

// sum += a b: the first and the second numbers of the pairs each in a chain of their own, then both
// added. (The instruction takes denormal numbers for zero; this doesn't.)
inline void emulated_multiply(int sum, int a, int b) {
  EmulatedTiles& e = emulated();
  if (e.row_bytes(a) != e.rows(b) * 4 || e.rows(a) != e.rows(sum) ||
      e.row_bytes(b) != e.row_bytes(sum))
    __builtin_trap();
  for (int64_t m = 0; m < e.rows(sum); ++m) {
    __m512 first = _mm512_setzero_ps(), second = first;
    for (int64_t k = 0; k < e.row_bytes(a) / 4; ++k) {
      int32_t word;
      __builtin_memcpy(&word, e.tile[a] + m * 64 + k * 4, 4);
      const __m512i x = _mm512_set1_epi32(word), w = _mm512_load_si512(e.tile[b] + k * 64),
                    upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
      first = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                              _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), first);
      second = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, upper)),
                               _mm512_castsi512_ps(_mm512_and_si512(w, upper)), second);
    }
    float* to = reinterpret_cast<float*>(e.tile[sum] + m * 64);
    const auto some = static_cast<__mmask16>((1u << (e.row_bytes(sum) / 4)) - 1);
    _mm512_mask_store_ps(to, some, _mm512_add_ps(_mm512_load_ps(to), _mm512_add_ps(first, second)));
  }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) emulated_config(config)
#define _tile_release() emulated_config(EmulatedTiles().config)
#define _tile_zero(t) emulated_zero(t)
#define _tile_loadd(t, from, stride) emulated_load(t, from, stride)
#define _tile_stream_loadd(t, from, stride) emulated_load(t, from, stride)
#define _tile_stored(t, to, stride) emulated_store(t, to, stride)
#define _tile_dpbf16ps(sum, a, b) emulated_multiply(sum, a, b)

inline void tile_fence() {}
template <int Tile>
inline void tile_zero() {
  emulated_zero(Tile);
}
template <int Tile>
inline void tile_load(const void* from, int64_t stride) {
  emulated_load(Tile, from, stride);
}
template <int Tile>
inline void tile_stream(const void* from, int64_t stride) {
  emulated_load(Tile, from, stride);
}
template <int Tile>
inline void tile_store(void* to, int64_t stride) {
  emulated_store(Tile, to, stride);
}
template <int Sum, int A, int B>
inline void tile_multiply() {
  emulated_multiply(Sum, A, B);
}
