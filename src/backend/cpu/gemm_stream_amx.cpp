// y = x Wᵀ for at most 16 rows of x, with AMX: the memory traffic of W is all that counts. W's rows
// are the first operand of the tile product as they lie in memory and x, packed once a worker, is
// the second, so that y comes out transposed. A product of two numbers doesn't depend on their
// order, so the bits are those of gemm_amx.cpp. gcc 12 takes the undefined operands of its own
// intrinsics for our mistakes
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

// Where elements of a row of w2's parts, laid end to end (high, high, low), come from: lanes of 16
// high parts and 16 low ones. For r <= 16.
constexpr int64_t kSplitRank = 16, kSplitSteps = 3 * kSplitRank / 32 + 1;
struct SplitOrder {
  __m512i from[kSplitSteps];
  __mmask32 some[kSplitSteps];
};
SplitOrder split_order(int64_t r) {
  SplitOrder order = {};
  for (int64_t step = 0; step < kSplitSteps && r > 0; ++step) {
    uint16_t from[32] = {};
    uint32_t some = 0;
    for (int64_t e = 0; e < 32; ++e) {
      const int64_t i = step * 32 + e;
      if (i >= 3 * r) break;
      from[e] = static_cast<uint16_t>(i % r + (i >= 2 * r ? 16 : 0));
      some |= 1u << e;
    }
    order.from[step] = _mm512_loadu_si512(from);
    order.some[step] = some;
  }
  return order;
}

// A worker's scratch: packed x; bias; c[16 rows][32 columns]; y transposed [32 columns][16 rows]; a
// tile of w.
struct Scratch {
  char* x;
  float *bias, *c, *transposed;
  char* spare;
};
Scratch scratch_at(const GemmJob& job, void* data) {
  Scratch s = {};
  s.x = static_cast<char*>(data);
  s.bias = reinterpret_cast<float*>(s.x + depth_of(job).total() * 64 * job.t);
  s.c = s.bias + 32;
  s.transposed = s.c + 16 * 32;
  s.spare = reinterpret_cast<char*>(s.transposed + 32 * 16);
  return s;
}

// 16 rows of W (or of w2's parts) at a step where they can't be read in place: behind k, behind n,
// or to be split.
void pack_w(const GemmJob& job, const Depth& depth, const SplitOrder& order, int64_t n,
            int64_t count, int64_t step, char* out) {
  const int64_t pairs = (job.k + 1) / 2;
  const __mmask16 lanes = static_cast<__mmask16>((uint64_t{1} << min_of(job.r, kSplitRank)) - 1);
  for (int64_t i = 0; i < count; ++i, out += 64) {
    if (step < depth.main) {
      store(reinterpret_cast<float*>(out),
            row_words(job.w, 0, n + i, step * 16, min_of<int64_t>(16, pairs - step * 16)));
    } else if (job.r <= kSplitRank) {
      float row[16];
      store(row, _mm512_maskz_loadu_ps(lanes, at(job.w2, n + i, 0)));
      const char* p = reinterpret_cast<const char*>(row);
      const __m512i high = _mm512_srli_epi32(upper(GemmElem::f32, 0, p, 16), 16);
      const __m512i low = _mm512_srli_epi32(upper(GemmElem::f32, 1, p, 16), 16);
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(high)),
                                              _mm512_cvtepi32_epi16(low), 1);
      const int64_t at_step = step - depth.main;
      _mm512_storeu_si512(
          out, _mm512_maskz_permutexvar_epi16(order.some[at_step], order.from[at_step], both));
    } else {
      split_row(at(job.w2, n + i, 0), job.r, false, (step - depth.main) * 32,
                reinterpret_cast<uint16_t*>(out));
    }
  }
}

// Columns [n, n + count) of y, count <= 16, transposed to out. The rows of W are one piece of
// memory. Only the beginnings of the next 16 are fetched before their use: the processor's own
// fetching keeps up with 16 rows once they have begun, and better so than with 32 or with prefetch
// instructions at any distance that was tried.
void sixteen(const GemmJob& job, const Depth& depth, const SplitOrder& order, int64_t n,
             int64_t count, const Scratch& scratch, float* out) {
  const int64_t total = depth.total(), line = job.t * 4, out_line = job.t == 1 ? 4 : 64;
  const int64_t in_place = count == 16 ? job.k / 32 : 0;
  const char* w = at(job.w, n, 0);
  _tile_zero(0);
  for (int64_t s = 0; s < in_place; ++s) {
    _tile_loadd(6, scratch.x + s * 16 * line, line);
    _tile_stream_loadd(4, w + s * 64, job.w.stride);
    _tile_dpbf16ps(0, 4, 6);
  }
  for (int64_t s = in_place; s < total; ++s) {
    if (s == depth.main && job.alpha != 1) {
      _tile_stored(0, out, out_line);
      for (int64_t i = 0; i < 4 * out_line; i += 16)
        store(out + i, mul(load(out + i), splat(job.alpha)));
      _tile_loadd(0, out, out_line);
    }
    pack_w(job, depth, order, n, count, s, scratch.spare);
    _tile_loadd(6, scratch.x + s * 16 * line, line);
    _tile_loadd(4, scratch.spare, 64);
    _tile_dpbf16ps(0, 4, 6);
  }
  if (n + 32 <= job.n) {
    for (const char *row = w + 16 * job.w.stride, *end = row + 16 * job.w.stride; row < end;
         row += job.w.stride) {
      _mm_prefetch(row, _MM_HINT_T1);
      _mm_prefetch(row + 64, _MM_HINT_T1);
    }
  }
  _tile_stored(0, out, out_line);
}

void prepare(const GemmJob* job, void* scratch) {
  pack_x(*job, depth_of(*job), scratch_at(*job, scratch).x);
}

void stream(const GemmJob* job_pointer, int64_t n0, int64_t cols, void* scratch_data) {
  const GemmJob& job = *job_pointer;
  const Depth depth = depth_of(job);
  const Scratch scratch = scratch_at(job, scratch_data);
  const SplitOrder order = split_order(job.r <= kSplitRank ? job.r : 0);

  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = static_cast<uint16_t>(i == 4 ? 64 : job.t * 4);
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
  between.c = scratch.c;
  for (int64_t n = 0; n < cols; n += 32) {
    const int64_t count = min_of<int64_t>(32, cols - n);
    for (int64_t half = 0; half * 16 < count; ++half) {
      // one row of y: its columns come out side by side
      float* out = job.t == 1 ? scratch.c + half * 16 : scratch.transposed + half * 256;
      sixteen(job, depth, order, n0 + n + half * 16, min_of<int64_t>(16, count - half * 16),
              scratch, out);
      if (job.t == 1) continue;
      Vec r[16];
      for (int64_t i = 0; i < 16; ++i) r[i] = load(out + i * 16);
      transpose(r, scratch.c + half * 16, 32);
    }
    if (job.bias.data) {
      for (int64_t i = 0; i < 32; i += 16) {
        store(scratch.bias + i, i < count ? expand_some(job.bias.type, at(job.bias, 0, n0 + n + i),
                                                        min_of<int64_t>(16, count - i))
                                          : zero());
      }
      between.bias = scratch.bias;
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
const GemmStreamPath kGemmStreamAmx = {prepare, stream};

}  // namespace hone::cpu
