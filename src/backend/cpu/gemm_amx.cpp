// gemm in tiles of AMX: y in blocks of 32 x 32 (2 x 2 tiles), steps of 32 along the depth, each
// element one chain over all steps. gcc 12 takes the undefined operands of its own intrinsics for
// our mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "backend/cpu/gemm_tile.h"

namespace hone::cpu {
namespace {
#include "backend/cpu/gemm_vec.inl"
//
#include "backend/cpu/gemm_pairs.inl"

constexpr int64_t kTileBytes = 1024, kStepBytes = 2 * kTileBytes;
constexpr int64_t kBlock = kGemmTileRows;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Steps of the depth: x against the parts of w, then x2's parts, laid end to end, against those of
// w2.
struct Depth {
  int64_t main, parts, second;
  int64_t prepared() const { return main + second; }
  int64_t total() const { return main * parts + second; }
};
Depth depth_of(const GemmJob& job) {
  return {ceil_div(job.k, 32), job.w.type == GemmElem::bf16 ? 1 : 2, ceil_div(3 * job.r, 32)};
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

void tiles_begin() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  // gcc 12 believes that the instruction reads 8 bytes
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

char* block_of(const GemmJob& job, const GemmChunk& chunk, int64_t t) {
  return static_cast<char*>(chunk.prepared) +
         (t - chunk.begin) / kBlock * depth_of(job).prepared() * kStepBytes;
}

// Element i of the row that x2 (part sequence high, low, high) or w2 (high, high, low) makes along
// the second depth.
float split_element(const char* p, bool low_part) {
  float f;
  __builtin_memcpy(&f, p, 4);
  const uint32_t high = static_cast<uint32_t>(round_bf16(f)) << 16;
  float h;
  __builtin_memcpy(&h, &high, 4);
  if (!low_part) return h;
  const float low = f - h;
  return (high & 0x7f800000u) == 0x7f800000u ? 0 : low;
}

// Blocks of 32 rows, each [step][2 tiles][16 rows][32 elements].
void prepare(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows) {
  const Depth depth = depth_of(*job);
  for (int64_t t = t0; t < t0 + rows; t += 16) {
    const int64_t count = min_of<int64_t>(16, t0 + rows - t);
    char* out = block_of(*job, *chunk, t) + (t - chunk->begin) % kBlock / 16 * kTileBytes;
    for (int64_t s = 0; s < depth.main; ++s) {
      if (job->x_by_depth) {
        Vec r[16];
        for (int64_t p = 0; p < 16; ++p) {
          r[p] = s * 16 + p < (job->k + 1) / 2 ? column_words(job->x, 0, s * 16 + p, t, count)
                                               : zero();
        }
        transpose(r, reinterpret_cast<float*>(out + s * kStepBytes), 16);
      } else {
        const int64_t words = min_of<int64_t>(16, (job->k + 1) / 2 - s * 16);
        for (int64_t i = 0; i < 16; ++i) {
          store(reinterpret_cast<float*>(out + s * kStepBytes + i * 64),
                i < count ? row_words(job->x, 0, t + i, s * 16, words) : zero());
        }
      }
    }
    char* second = out + depth.main * kStepBytes;
    for (int64_t i = 0; i < 16; ++i) {
      for (int64_t e = 0; e < depth.second * 32; ++e) {
        float f = 0;
        if (i < count && e < 3 * job->r)
          f = split_element(at(job->x2, t + i, e % job->r), e / job->r == 1);
        const uint16_t h = round_bf16(f);
        __builtin_memcpy(second + e / 32 * kStepBytes + i * 64 + e % 32 * 2, &h, 2);
      }
    }
  }
}

// One tile of w: columns n0.. (count of them) at a step of the whole depth.
void pack_tile(const GemmJob& job, const Depth& depth, int64_t step, int64_t n0, int64_t count,
               float* out) {
  Vec r[16];
  if (step < depth.main * depth.parts) {
    const int part = step >= depth.main;
    const int64_t pair0 = (step - part * depth.main) * 16, pairs = (job.k + 1) / 2;
    if (job.w_by_depth) {
      for (int64_t p = 0; p < 16; ++p) {
        store(out + p * 16, pair0 + p < pairs && count > 0
                                ? column_words(job.w, part, pair0 + p, n0, count)
                                : zero());
      }
      return;
    }
    for (int64_t i = 0; i < 16; ++i) {
      r[i] = i < count ? row_words(job.w, part, n0 + i, pair0, min_of<int64_t>(16, pairs - pair0))
                       : zero();
    }
    transpose(r, out, 16);
    return;
  }
  const int64_t e0 = (step - depth.main * depth.parts) * 32;
  uint16_t* halves = reinterpret_cast<uint16_t*>(out);
  for (int64_t e = 0; e < 32; ++e) {
    for (int64_t i = 0; i < 16; ++i) {
      float f = 0;
      if (i < count && e0 + e < 3 * job.r) {
        const int64_t rank = (e0 + e) % job.r;
        f = split_element(job.w_by_depth ? at(job.w2, rank, n0 + i) : at(job.w2, n0 + i, rank),
                          (e0 + e) / job.r == 2);
      }
      halves[e / 2 * 32 + i * 2 + e % 2] = round_bf16(f);
    }
  }
}

// Tiles 0..3 += a b over steps; a and b are [step][2 tiles].
void multiply(const char* a, const char* b, int64_t steps, bool rows32, bool cols32) {
  if (rows32 && cols32) {
    for (int64_t s = 0; s < steps; ++s, a += kStepBytes, b += kStepBytes) {
      _tile_loadd(4, a, 64);
      _tile_loadd(6, b, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + kTileBytes, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a + kTileBytes, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  } else if (cols32) {
    for (int64_t s = 0; s < steps; ++s, a += kStepBytes, b += kStepBytes) {
      _tile_loadd(4, a, 64);
      _tile_loadd(6, b, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + kTileBytes, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
  } else if (rows32) {
    for (int64_t s = 0; s < steps; ++s, a += kStepBytes, b += kStepBytes) {
      _tile_loadd(4, a, 64);
      _tile_loadd(6, b, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, a + kTileBytes, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
  } else {
    for (int64_t s = 0; s < steps; ++s, a += kStepBytes, b += kStepBytes) {
      _tile_loadd(4, a, 64);
      _tile_loadd(6, b, 64);
      _tile_dpbf16ps(0, 4, 6);
    }
  }
}

// scratch: w of depth_block steps, [32 columns][step][2 tiles]; then sums as blocks of 32 x 32, all
// of the panel's where the depth is cut, else one.
void panel(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
           int64_t cols, int64_t depth_block, void* scratch) {
  const Depth depth = depth_of(*job);
  const int64_t boundary = depth.main * depth.parts, total = depth.total();
  const bool scale = job->alpha != 1 && job->r > 0;
  const bool cut = total > depth_block || scale;
  const int64_t subs = ceil_div(cols, kBlock);
  char* packed = static_cast<char*>(scratch);
  float* sums = reinterpret_cast<float*>(packed + subs * depth_block * kStepBytes);
  tiles_begin();
  for (int64_t first = 0, last; first == 0 || first < total; first = last) {
    last = min_of(first + depth_block, total);
    if (scale && first < boundary) last = min_of(last, boundary);
    for (int64_t sub = 0; sub < subs; ++sub) {
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t n = sub * kBlock + half * 16, count = min_of<int64_t>(16, cols - n);
        if (count <= 0) continue;
        for (int64_t s = first; s < last; ++s) {
          pack_tile(*job, depth, s, n0 + n, count,
                    reinterpret_cast<float*>(packed + (sub * depth_block + s - first) * kStepBytes +
                                             half * kTileBytes));
        }
      }
    }
    for (int64_t t = 0; t < rows; t += kBlock) {
      const char* a = block_of(*job, *chunk, t0 + t);
      const bool rows32 = rows - t > 16;
      for (int64_t sub = 0; sub < subs; ++sub) {
        const bool cols32 = cols - sub * kBlock > 16;
        float* c = cut ? sums + (t / kBlock * subs + sub) * kBlock * kBlock : sums;
        if (first == 0) {
          _tile_zero(0);
          _tile_zero(1);
          _tile_zero(2);
          _tile_zero(3);
        } else {
          if (scale && first == boundary) {
            for (int64_t i = 0; i < kBlock * kBlock; i += 16)
              store(c + i, mul(load(c + i), splat(job->alpha)));
          }
          _tile_loadd(0, c, kBlock * 4);
          _tile_loadd(1, c + 16, kBlock * 4);
          _tile_loadd(2, c + 16 * kBlock, kBlock * 4);
          _tile_loadd(3, c + 16 * kBlock + 16, kBlock * 4);
        }
        const char* b = packed + sub * depth_block * kStepBytes;
        for (int64_t s = first; s < last;) {
          // x is read again for each part of w
          int64_t end = s < boundary ? (s / depth.main + 1) * depth.main : total;
          end = min_of(end, last);
          const int64_t from = s < boundary ? s % depth.main : depth.main + s - boundary;
          multiply(a + from * kStepBytes, b + (s - first) * kStepBytes, end - s, rows32, cols32);
          s = end;
        }
        _tile_stored(0, c, kBlock * 4);
        _tile_stored(1, c + 16, kBlock * 4);
        _tile_stored(2, c + 16 * kBlock, kBlock * 4);
        _tile_stored(3, c + 16 * kBlock + 16, kBlock * 4);
        if (last == total) {
          finish(*job, c, kBlock, t0 + t, min_of(kBlock, rows - t), n0 + sub * kBlock,
                 min_of(kBlock, cols - sub * kBlock));
        }
      }
    }
    if (last == first) break;
  }
  _tile_release();
}
}  // namespace

extern const GemmPath kGemmAmx;
const GemmPath kGemmAmx = {prepare, panel};

}  // namespace hone::cpu
