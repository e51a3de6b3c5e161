// Attention of bf16 tensors with TDPBF16PS: every product is one of 16 x 16 tiles.
#include <immintrin.h>

#include "backend/cpu/attention.h"

namespace hone::cpu {
namespace {

#include "backend/cpu/amx_tile.inl"

constexpr int kExp2Degree = 5;
#include "backend/cpu/attention_exp2.inc"
#include "backend/cpu/attention_vec512.inc"
// The order matters: vectors, packs, products, attention.
#include "backend/cpu/attention_pairs.inc"

// kM x kN tiles of c; tiles 0-3 accumulate, 4-5 hold a, 6-7 hold b.
template <int kM, int kN>
inline void mm_tiles(int k_len, const uint16_t* a, int lda, const uint16_t* b, int ldb, float* c,
                     int ldc, bool accumulate) {
  const int64_t a_stride = lda * 2, b_stride = ldb * 4, c_stride = ldc * 4;
  if (accumulate) {
    _tile_loadd(0, c, c_stride);
    if constexpr (kN == 2) _tile_loadd(1, c + 16, c_stride);
    if constexpr (kM == 2) _tile_loadd(2, c + 16 * ldc, c_stride);
    if constexpr (kM == 2 && kN == 2) _tile_loadd(3, c + 16 * ldc + 16, c_stride);
  } else {
    _tile_zero(0);
    if constexpr (kN == 2) _tile_zero(1);
    if constexpr (kM == 2) _tile_zero(2);
    if constexpr (kM == 2 && kN == 2) _tile_zero(3);
  }
  for (int k = 0; k < k_len; k += 32) {
    const uint16_t* row = b + static_cast<int64_t>(k) * ldb;
    _tile_loadd(4, a + k, a_stride);
    _tile_loadd(6, row, b_stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kN == 2) {
      _tile_loadd(7, row + 32, b_stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kM == 2) {
      _tile_loadd(5, a + 16 * lda + k, a_stride);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kN == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, c_stride);
  if constexpr (kN == 2) _tile_stored(1, c + 16, c_stride);
  if constexpr (kM == 2) _tile_stored(2, c + 16 * ldc, c_stride);
  if constexpr (kM == 2 && kN == 2) _tile_stored(3, c + 16 * ldc + 16, c_stride);
}

struct TileEngine : PairPacks {
  static constexpr int kRowStep = 16;
  static void begin() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_per_row[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.bytes_per_row[i] = 64, config.rows[i] = 16;
    // The compiler takes the load for one of 8 bytes.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  static void end() { _tile_release(); }
  // c [m, n] = (accumulate: +=) a [m, k] b [k, n], b in pairs; n and k multiples of 32, m rounded
  // up to a multiple of 16.
  static void mm(int m, int n, int k, const uint16_t* a, int lda, const uint16_t* b, int ldb,
                 float* c, int ldc, bool accumulate) {
    int i = 0;
    for (; i + 16 < m; i += 32) {
      for (int j = 0; j < n; j += 32)
        mm_tiles<2, 2>(k, a + i * lda, lda, b + 2 * j, ldb, c + i * ldc + j, ldc, accumulate);
    }
    if (i < m) {
      for (int j = 0; j < n; j += 32)
        mm_tiles<1, 2>(k, a + i * lda, lda, b + 2 * j, ldb, c + i * ldc + j, ldc, accumulate);
    }
  }
};

#include "backend/cpu/attention_impl.inc"

}  // namespace

AttentionPath attention_amx_path() { return path<TileEngine>(); }

}  // namespace hone::cpu
