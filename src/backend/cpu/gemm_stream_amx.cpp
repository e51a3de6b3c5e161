// y = x Wᵀ for at most 16 rows of x, with AMX: the memory traffic of W is all that counts. W's rows
// are the first operand of the tile product as they lie in memory and x, packed once a task, is the
// second, so that y comes out transposed. A product of two numbers doesn't depend on their order,
// so the bits are those of gemm_amx.cpp. gcc 12 takes the undefined operands of its own intrinsics
// for our mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "backend/cpu/gemm_tile.h"

namespace hone::cpu {
namespace {
#include "backend/cpu/gemm_vec.inl"
//
#include "backend/cpu/gemm_pairs.inl"
//
#include "backend/cpu/gemm_tiles.inl"

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// x and the parts of x2 as [step][16 pairs][rows] words.
void pack_x(const GemmJob& job, const Depth& depth, char* out) {
  const int64_t pairs = (job.k + 1) / 2, line = job.t * 4;
  const __mmask16 some = static_cast<__mmask16>((1u << job.t) - 1);
  for (int64_t s = 0; s < depth.total(); ++s, out += 16 * line) {
    Vec r[16];
    for (int64_t t = 0; t < 16; ++t) {
      if (t >= job.t) {
        r[t] = zero();
      } else if (s < depth.main) {
        r[t] = row_words(job.x, 0, t, s * 16, min_of<int64_t>(16, pairs - s * 16));
      } else {
        uint16_t halves[32];
        split_row(at(job.x2, t, 0), job.r, true, (s - depth.main) * 32, halves);
        r[t] = load(reinterpret_cast<const float*>(halves));
      }
    }
    if (job.t == 1) {
      store(reinterpret_cast<float*>(out), r[0]);
      continue;
    }
    float square[256];
    transpose(r, square, 16);
    for (int64_t p = 0; p < 16; ++p)
      _mm512_mask_storeu_ps(out + p * line, some, load(square + p * 16));
  }
}

// 16 rows of W (or of w2's parts) at a step where they can't be read in place: behind k, behind n,
// or to be split.
void pack_w(const GemmJob& job, const Depth& depth, int64_t n, int64_t count, int64_t step,
            char* out) {
  const int64_t pairs = (job.k + 1) / 2;
  for (int64_t i = 0; i < count; ++i) {
    if (step < depth.main) {
      store(reinterpret_cast<float*>(out + i * 64),
            row_words(job.w, 0, n + i, step * 16, min_of<int64_t>(16, pairs - step * 16)));
    } else {
      split_row(at(job.w2, n + i, 0), job.r, false, (step - depth.main) * 32,
                reinterpret_cast<uint16_t*>(out + i * 64));
    }
  }
}

// scratch: packed x; bias; c[32 rows][32 columns]; y transposed [32 columns][16 rows]; two tiles of
// w.
void stream(const GemmJob* job_pointer, int64_t n0, int64_t cols, void* scratch) {
  const GemmJob& job = *job_pointer;
  const Depth depth = depth_of(job);
  const int64_t total = depth.total(), line = job.t * 4;
  char* x = static_cast<char*>(scratch);
  float* bias = reinterpret_cast<float*>(x + (total * 16 * line + 63) / 64 * 64);
  float* c = bias + 32;
  float* transposed = c + 32 * 32;
  char* spare = reinterpret_cast<char*>(transposed + 32 * 16);
  pack_x(job, depth, x);

  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? 64 : line);
    config.rows[i] = 16;
  }
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);

  Between between;
  between.y_stride = job.y.stride;
  between.add_stride = job.add.stride;
  between.y_bf16 = job.y.type == GemmElem::bf16;
  between.add_bf16 = job.add.type == GemmElem::bf16;
  between.scale = job.alpha != 1 && job.r == 0;
  between.alpha = job.alpha;
  between.c = c;
  // the lines of W behind these columns, fetched in the order in which they lie
  constexpr int64_t kAhead = 32;
  for (int64_t n = 0; n < cols; n += 32) {
    const int64_t count = min_of<int64_t>(32, cols - n);
    const int64_t first = min_of<int64_t>(16, count), second = count - first;
    const char* w = at(job.w, n0 + n, 0);
    const char* fetch = w + kAhead * job.w.stride;
    const int64_t fetch_rows = min_of<int64_t>(32, job.n - n0 - n - kAhead);
    const char* fetch_end =
        fetch_rows > 0 ? fetch + (fetch_rows - 1) * job.w.stride + job.k * 2 : fetch;
    const int64_t fetch_bytes = (fetch_end - fetch + total - 1) / total;
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t s = 0; s < total; ++s) {
      if (s == depth.main && job.alpha != 1) {
        _tile_stored(0, transposed, 64);
        _tile_stored(1, transposed + 256, 64);
        for (int64_t i = 0; i < 512; i += 16)
          store(transposed + i, mul(load(transposed + i), splat(job.alpha)));
        _tile_loadd(0, transposed, 64);
        _tile_loadd(1, transposed + 256, 64);
      }
      const bool in_place = s * 32 + 32 <= job.k;
      _tile_loadd(6, x + s * 16 * line, line);
      for (const char *p = fetch + s * fetch_bytes, *end = p + fetch_bytes;
           p < end && p < fetch_end; p += 64) {
        _mm_prefetch(p, _MM_HINT_T1);
      }
      if (in_place && first == 16) {
        _tile_loadd(4, w + s * 64, job.w.stride);
      } else {
        pack_w(job, depth, n0 + n, first, s, spare);
        _tile_loadd(4, spare, 64);
      }
      _tile_dpbf16ps(0, 4, 6);
      if (second == 0) continue;
      if (in_place && second == 16) {
        _tile_loadd(5, w + 16 * job.w.stride + s * 64, job.w.stride);
      } else {
        pack_w(job, depth, n0 + n + 16, second, s, spare + kTileBytes);
        _tile_loadd(5, spare + kTileBytes, 64);
      }
      _tile_dpbf16ps(1, 5, 6);
    }
    if (job.t == 1) {
      _tile_stored(0, c, 4);
      _tile_stored(1, c + 16, 4);
    } else {
      _tile_stored(0, transposed, 64);
      _tile_stored(1, transposed + 256, 64);
      for (int64_t half = 0; half < 2; ++half) {
        Vec r[16];
        for (int64_t i = 0; i < 16; ++i) r[i] = load(transposed + half * 256 + i * 16);
        transpose(r, c + half * 16, 32);
      }
    }
    if (job.bias.data) {
      for (int64_t i = 0; i < 32; i += 16) {
        store(bias + i, i < count ? expand_some(job.bias.type, at(job.bias, 0, n0 + n + i),
                                                min_of<int64_t>(16, count - i))
                                  : zero());
      }
      between.bias = bias;
    }
    between.y = const_cast<char*>(at(job.y, 0, n0 + n));
    between.add = job.add.data ? at(job.add, 0, n0 + n) : nullptr;
    between.row = 0;
    between.rows = job.t;
    between.columns = static_cast<__mmask32>((uint64_t{1} << count) - 1);
    between.flush();
  }
  _tile_release();
}
}  // namespace

extern const GemmStreamPath kGemmStreamAmx;
const GemmStreamPath kGemmStreamAmx = {stream};

}  // namespace hone::cpu
