// Weight gradients with one narrow fp32 side, with AMX: the narrow side is the first operand, its
// high and low bf16 parts as rows below each other, so that the wide side, which is the memory
// traffic, is read once and needs only the pairing of rows. It is read in blocks of rows, the lines
// of a row one after another while the block before is in work: the processor's own fetching knows
// that order, and has more requests under way than L1 could. gcc 12 takes the undefined operands of
// its own intrinsics for our mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "backend/cpu/gemm_tile.h"

namespace hone::cpu {
namespace {
#include "backend/cpu/amx_tile.inl"
//
#include "backend/cpu/gemm_vec.inl"
//
#include "backend/cpu/gemm_pairs.inl"

constexpr int64_t kTileBytes = 1024;
constexpr int64_t kBlockSteps = 4;  // 128 rows of the wide side

int64_t tiles_of(int64_t r) { return (2 * r + 15) / 16; }

// [step][tile][16 rows][32 t]: row j < r is the high part of column j, row r + j its low part.
void prepare(const GemmNarrowJob* job, int64_t first, int64_t steps, void* prepared) {
  const int64_t tiles = tiles_of(job->r);
  for (int64_t s = first; s < first + steps; ++s) {
    char* out = static_cast<char*>(prepared) + s * tiles * kTileBytes;
    __builtin_memset(out, 0, static_cast<size_t>(tiles * kTileBytes));
    for (int part = 0; part < 2; ++part) {
      for (int64_t c = 0; c < job->r; c += 16) {
        const int64_t count = min_of<int64_t>(16, job->r - c);
        Vec r[16];
        for (int64_t p = 0; p < 16; ++p) {
          const int64_t pair = s * 16 + p;
          r[p] = 2 * pair < job->t ? column_words(job->narrow, part, pair, c, count) : zero();
        }
        float square[256];
        transpose(r, square, 16);
        for (int64_t i = 0; i < count; ++i) {
          store(reinterpret_cast<float*>(out + (part * job->r + c + i) * 64),
                load(square + i * 16));
        }
      }
    }
  }
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// 16 columns of 32 rows of the wide side as pairs of rows.
inline void pack(const GemmNarrowJob& job, int64_t step, int64_t w0, int64_t count, float* out) {
  if (count >= 16 && step * 32 + 32 <= job.t) {
    const char* w = at(job.wide, step * 32, w0);
    const int64_t stride = job.wide.stride;
    for (int64_t p = 0; p < 16; ++p, w += 2 * stride) {
      const __m512i even =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
      const __m512i odd =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + stride)));
      _mm512_store_si512(out + p * 16, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
    return;
  }
  for (int64_t p = 0; p < 16; ++p) {
    const int64_t pair = step * 16 + p;
    store(out + p * 16,
          count > 0 && 2 * pair < job.t ? column_words(job.wide, 0, pair, w0, count) : zero());
  }
}

// Rows of the wide side that are fetched into L2, some at every step.
struct Ahead {
  const char *row, *end;
  int64_t stride, row_bytes, rows_per_step;

  void step() {
    for (int64_t i = 0; i < rows_per_step && row < end; ++i, row += stride) {
      for (int64_t b = 0; b < row_bytes; b += 64) _mm_prefetch(row + b, _MM_HINT_T1);
    }
  }
};

// Adds to the sums (tiles, next_row bytes from one row of tiles to the next) Rows row tiles and
// Cols column tiles from the first of each, over steps [first, last).
template <int Rows, int Cols>
void multiply(const GemmNarrowJob& job, const char* a, int64_t a_step, int64_t w0, int64_t cols,
              int64_t first, int64_t last, char* packed, char* sums, int64_t next_row,
              Ahead& ahead) {
  char* below = sums + next_row;
  if (first == 0) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, 64);
    if constexpr (Cols > 1) _tile_loadd(1, sums + kTileBytes, 64);
    if constexpr (Cols > 2) {
      _tile_loadd(2, sums + 2 * kTileBytes, 64);
      _tile_loadd(3, sums + 3 * kTileBytes, 64);
    }
    if constexpr (Rows > 1) {
      _tile_loadd(2, below, 64);
      if constexpr (Cols > 1) _tile_loadd(3, below + kTileBytes, 64);
    }
  }
  a += first * a_step;
  for (int64_t s = first; s < last; ++s, a += a_step) {
    // two buffers: a tile is stored row by row while the one before is still being read
    char* b = packed + s % 2 * 2048;
    const auto tile = [&](int64_t c) {
      pack(job, s, w0 + c * 16, min_of<int64_t>(16, cols - c * 16),
           reinterpret_cast<float*>(b + c % 2 * kTileBytes));
    };
    ahead.step();
    tile(0);
    _tile_loadd(4, a, 64);
    _tile_loadd(5, b, 64);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (Cols > 1) {
      tile(1);
      _tile_loadd(6, b + kTileBytes, 64);
      _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (Cols > 2) {
      tile(2);
      _tile_loadd(5, b, 64);
      _tile_dpbf16ps(2, 4, 5);
      tile(3);
      _tile_loadd(6, b + kTileBytes, 64);
      _tile_dpbf16ps(3, 4, 6);
    }
    if constexpr (Rows > 1) {
      _tile_loadd(7, a + kTileBytes, 64);
      _tile_dpbf16ps(2, 7, 5);
      if constexpr (Cols > 1) _tile_dpbf16ps(3, 7, 6);
    }
  }
  _tile_stored(0, sums, 64);
  if constexpr (Cols > 1) _tile_stored(1, sums + kTileBytes, 64);
  if constexpr (Cols > 2) {
    _tile_stored(2, sums + 2 * kTileBytes, 64);
    _tile_stored(3, sums + 3 * kTileBytes, 64);
  }
  if constexpr (Rows > 1) {
    _tile_stored(2, below, 64);
    if constexpr (Cols > 1) _tile_stored(3, below + kTileBytes, 64);
  }
}

// scratch: sums as [row tile][column tile][16][16], then four tiles.
void panel(const GemmNarrowJob* job_pointer, const void* prepared, int64_t w0, int64_t cols,
           void* scratch) {
  const GemmNarrowJob& job = *job_pointer;
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
  const int64_t tiles = tiles_of(job.r), a_step = tiles * kTileBytes;
  const int64_t steps = (job.t + 31) / 32, group = tiles == 1 ? 64 : 32;
  constexpr int64_t kRowTiles = kGemmNarrowCols / 16 * kTileBytes;
  char* sums = static_cast<char*>(scratch);
  char* packed = sums + tiles * kRowTiles;
  const char* a = static_cast<const char*>(prepared);
  for (int64_t first = 0; first < steps; first += kBlockSteps) {
    const int64_t last = min_of(first + kBlockSteps, steps);
    const int64_t groups = (cols + group - 1) / group * ((tiles + 1) / 2);
    const int64_t rows = min_of(kBlockSteps * 32, job.t - last * 32);
    Ahead ahead = {};
    if (rows > 0) {
      const char* row = at(job.wide, last * 32, w0);
      const int64_t calls = groups * (last - first);
      ahead = {row, row + rows * job.wide.stride, job.wide.stride, cols * 2,
               (rows + calls - 1) / calls};
    }
    for (int64_t c = 0; c < cols; c += group) {
      char* to = sums + c / 16 * kTileBytes;
      if (tiles == 1) {
        multiply<1, 4>(job, a, a_step, w0 + c, cols - c, first, last, packed, to, kRowTiles, ahead);
        continue;
      }
      for (int64_t m = 0; m < tiles; m += 2, to += 2 * kRowTiles) {
        const auto run = m + 1 < tiles ? multiply<2, 2> : multiply<1, 2>;
        run(job, a + m * kTileBytes, a_step, w0 + c, cols - c, first, last, packed, to, kRowTiles,
            ahead);
      }
    }
  }
  _tile_release();
  // row j of the sums in column c
  const auto sum_at = [&](int64_t j, int64_t c) {
    return reinterpret_cast<float*>(sums + j / 16 * kRowTiles + c / 16 * kTileBytes) + j % 16 * 16 +
           c % 16;
  };
  const Vec alpha = splat(job.alpha);
  for (int64_t j = 0; j < job.r; ++j) {
    char* out = job.by_wide ? nullptr : const_cast<char*>(at(job.out, j, w0));
    for (int64_t c = 0; c < cols; c += 16) {
      const Vec both = mul(plus(load(sum_at(j, c)), load(sum_at(job.r + j, c))), alpha);
      if (job.by_wide) {
        store(sum_at(j, c), both);
        continue;
      }
      const __mmask16 some = static_cast<__mmask16>((1u << min_of<int64_t>(16, cols - c)) - 1);
      const Vec old = _mm512_maskz_loadu_ps(some, out + c * 4);
      _mm512_mask_storeu_ps(out + c * 4, some, plus(old, both));
    }
  }
  if (!job.by_wide) return;
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t j = 0; j < job.r; ++j) {
      char* out = const_cast<char*>(at(job.out, w0 + c, j));
      float f;
      __builtin_memcpy(&f, out, 4);
      f += *sum_at(j, c);
      __builtin_memcpy(out, &f, 4);
    }
  }
}
}  // namespace

extern const GemmNarrowPath kGemmNarrowAmx;
const GemmNarrowPath kGemmNarrowAmx = {prepare, panel};

}  // namespace hone::cpu
