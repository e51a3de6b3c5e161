// y = x Wᵀ for at most 32 rows of x, with AMX: the memory traffic of W is all that counts. A bf16
// W: its rows are the first operand of the tile product as they lie in memory and x, packed once a
// worker, is the second, so that y comes out transposed. A W in strips: its tiles, expanded, are
// the second operand, and x is the first as it lies in memory. A product of two numbers doesn't
// depend on their order, so the bits are those of gemm_amx.cpp. gcc 12 takes the undefined operands
// of its own intrinsics for our mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <utility>

#include "backend/cpu/gemm_tile.h"

namespace hone::cpu {
namespace {
#include "backend/cpu/gemm_vec.inl"
//
#include "backend/cpu/gemm_pairs.inl"
//
#include "backend/cpu/gemm_tiles.inl"
//
#include "backend/cpu/amx_tile.inl"

// Rows of x go in tiles of 16, the last with what is left.
int64_t x_tiles(const GemmJob& job) { return ceil_div(job.t, 16); }
int64_t x_rows(const GemmJob& job, int64_t tile) { return min_of<int64_t>(16, job.t - tile * 16); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Registers: sums in 0 to 3, W in 4 and 5, x in 6 and 7; where there are two tiles of x, those of
// the second, and its sums, are odd. Rows of x are rows of these (strips) or columns (else).
void tiles_begin(const GemmJob& job) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    const bool of_w = i == 4 || i == 5, packed = job.w.strips;
    const auto rows = static_cast<uint8_t>(x_rows(job, x_tiles(job) == 2 ? i % 2 : 0));
    config.row_bytes[i] = static_cast<uint16_t>(of_w || packed ? 64 : rows * 4);
    config.rows[i] = of_w || !packed ? 16 : rows;
  }
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
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

// A worker's scratch: packed x, or the parts of x2 where W is in strips; bias; c[two halves][32
// rows][32 columns], of which bf16 uses one half, and the other for y transposed, [strip of 16
// columns][tile of x][16 columns][16 rows], one row of y: [columns]; tiles of w.
struct Scratch {
  char* x;
  float *bias, *c, *transposed;
  char* spare;
};
constexpr int64_t kSpareTiles = 8, kHalf = 32 * 32;
Scratch scratch_at(const GemmJob& job, void* data) {
  Scratch s = {};
  s.x = static_cast<char*>(data);
  s.bias = reinterpret_cast<float*>(s.x + depth_of(job).total() * 64 * job.t);
  s.c = s.bias + 32;
  s.transposed = s.c + kHalf;
  s.spare = reinterpret_cast<char*>(s.c + 2 * kHalf);
  return s;
}

struct Call {
  const GemmJob& job;
  const Depth depth;
  const SplitOrder order;
  const Scratch scratch;
};

// 16 rows of W (or of w2's parts) at a step where they can't be read in place: behind k, behind n,
// or to be split.
void pack_w(const Call& call, int64_t n, int64_t count, int64_t step, char* out) {
  const auto& [job, depth, order, scratch] = call;
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

// ---- A W of rows

// Rows [t0, t0 + rows) of x and of the parts of x2 as [step][16 pairs][rows] words.
void pack_x(const GemmJob& job, const Depth& depth, int64_t t0, int64_t rows, char* out) {
  const int64_t pairs = (job.k + 1) / 2, line = rows * 4;
  const __mmask16 some = static_cast<__mmask16>((1u << rows) - 1);
  for (int64_t s = 0; s < depth.total(); ++s, out += 16 * line) {
    Vec r[16];
    for (int64_t t = 0; t < 16; ++t) {
      if (t >= rows) {
        r[t] = zero();
      } else if (s < depth.main) {
        r[t] = row_words(job.x, 0, t0 + t, s * 16, min_of<int64_t>(16, pairs - s * 16));
      } else {
        uint16_t halves[32];
        split_row(at(job.x2, t0 + t, 0), job.r, true, (s - depth.main) * 32, halves);
        r[t] = load(reinterpret_cast<const float*>(halves));
      }
    }
    if (rows == 1) {
      store(reinterpret_cast<float*>(out), r[0]);
      continue;
    }
    float square[256];
    transpose(r, square, 16);
    for (int64_t p = 0; p < 16; ++p)
      _mm512_mask_storeu_ps(out + p * line, some, load(square + p * 16));
  }
}

// Columns [n, n + count) of y, count <= 16, transposed to out, a tile of x after the other. Only
// the beginnings of the next 16 rows of W are fetched before their use: the processor's own
// fetching keeps up with 16 rows once they have begun, and better so than with 32 or with prefetch
// instructions at any distance that was tried.
template <int XTiles>
void strip_in_place(const Call& call, int64_t n, int64_t count, float* out) {
  const auto& [job, depth, order, scratch] = call;
  const int64_t line = x_rows(job, 0) * 4, second_line = x_rows(job, XTiles - 1) * 4;
  const char* second_x = scratch.x + depth.total() * 16 * line;
  const int64_t out_line = job.t == 1 ? 4 : 64;
  const auto load_x = [&](int64_t step) {
    tile_load<6>(scratch.x + step * 16 * line, line);
    if constexpr (XTiles == 2) tile_load<7>(second_x + step * 16 * second_line, second_line);
  };
  const auto multiply = [] {
    tile_multiply<0, 4, 6>();
    if constexpr (XTiles == 2) tile_multiply<1, 4, 7>();
  };
  const auto end = [&] {
    tile_store<0>(out, out_line);
    if constexpr (XTiles == 2) tile_store<1>(out + 256, out_line);
    tile_fence();
  };
  const int64_t in_place = count == 16 ? job.k / 32 : 0;
  const char* w = at(job.w, n, 0);
  tile_zero<0>();
  tile_zero<1>();
  for (int64_t s = 0; s < in_place; ++s) {
    load_x(s);
    tile_stream<4>(w + s * 64, job.w.stride);
    multiply();
  }
  for (int64_t s = in_place; s < depth.total(); ++s) {
    if (s == depth.main && job.alpha != 1) {
      end();
      for (int64_t i = 0; i < 4 * out_line * XTiles; i += 16)
        store(out + i, mul(load(out + i), splat(job.alpha)));
      tile_fence();
      tile_load<0>(out, out_line);
      if constexpr (XTiles == 2) tile_load<1>(out + 256, out_line);
    }
    load_x(s);
    pack_w(call, n, count, s, scratch.spare);
    tile_fence();
    tile_load<4>(scratch.spare, 64);
    tile_fence();
    multiply();
  }
  if (n + 32 <= job.n) {
    for (const char *row = w + 16 * job.w.stride, *last = row + 16 * job.w.stride; row < last;
         row += job.w.stride) {
      _mm_prefetch(row, _MM_HINT_T1);
      _mm_prefetch(row + 64, _MM_HINT_T1);
    }
  }
  end();
}

// Columns [n, n + count) of y to c, count <= 32.
template <int XTiles>
void columns_in_place(const Call& call, int64_t n, int64_t count) {
  const bool one = call.job.t == 1;
  const Scratch& scratch = call.scratch;
  for (int64_t side = 0; side < count; side += 16) {
    float* out = one ? scratch.c + side : scratch.transposed;
    strip_in_place<XTiles>(call, n + side, min_of<int64_t>(16, count - side), out);
    for (int64_t tile = 0; tile < (one ? 0 : XTiles); ++tile) {
      Vec r[16];
      for (int64_t i = 0; i < 16; ++i) r[i] = load(out + (tile * 16 + i) * 16);
      transpose(r, scratch.c + tile * 16 * 32 + side, 32);
    }
  }
}

// ---- A W in strips

// The parts of x2 as [step][row][32].
void split_x2(const GemmJob& job, const Depth& depth, char* out) {
  for (int64_t s = 0; s < depth.second; ++s) {
    for (int64_t t = 0; t < job.t; ++t, out += 64)
      split_row(at(job.x2, t, 0), job.r, true, s * 32, reinterpret_cast<uint16_t*>(out));
  }
}

// Strips of 16 columns of y from column n on, to c: several at a time, since several are read
// faster than one. Tiles are expanded into a few places in turn, and fetched so far ahead; behind
// the last of a strip those of the strips that come next.
constexpr int64_t kTilesAhead = 2;

template <int XTiles, int... Strip>
void strips_expanded(const Call& call, int64_t n, float* c) {
  constexpr int64_t kCount = sizeof...(Strip);
  const auto& [job, depth, order, scratch] = call;
  const auto sums = [&]<int S>(auto fn) {
    float* at = c + S / 2 * kHalf + S % 2 * 16;
    fn.template operator()<S * XTiles>(at);
    if constexpr (XTiles == 2) fn.template operator()<S * 2 + 1>(at + 16 * 32);
  };
  const auto all_sums = [&](auto fn) { (sums.template operator()<Strip>(fn), ...); };
  const auto multiply = []<int S>() {
    tile_multiply<S * XTiles, 6, 4 + S % 2>();
    if constexpr (XTiles == 2) tile_multiply<S * 2 + 1, 7, 4 + S % 2>();
  };
  const auto load_x = [](const char* x, int64_t stride) {
    tile_load<6>(x, stride);
    if constexpr (XTiles == 2) tile_load<7>(x + 16 * stride, stride);
  };
  all_sums([]<int Sum>(float*) { tile_zero<Sum>(); });
  const char* x = at(job.x, 0, 0);
  const int64_t strip_bytes = kStripCols * job.w.stride;
  const PackedStrip w = strip_at(job.w, n), next = w.after(kCount * strip_bytes);
  int64_t place = 0;
  for (int64_t s = 0; s < depth.main; ++s) {
    load_x(x + s * 64, job.x.stride);
    const char* ahead = s + kTilesAhead < depth.main ? w.tile(s + kTilesAhead)
                                                     : next.tile(s + kTilesAhead - depth.main);
    const auto one = [&]<int S>() __attribute__((always_inline)) {
      const PackedStrip strip = w.after(S * strip_bytes);
      fetch_tile(ahead + S * strip_bytes);
      if (const char* plain = strip.plain(s); plain != nullptr) {
        tile_load<4 + S % 2>(plain, 64);
      } else {
        char* expanded = scratch.spare + place++ % kSpareTiles * kTileBytes;
        strip.expand(s, [&](int64_t i, __m512i v) { _mm512_store_si512(expanded + i * 64, v); });
        tile_fence();
        tile_load<4 + S % 2>(expanded, 64);
      }
      multiply.template operator()<S>();
    };
    (one.template operator()<Strip>(), ...);
  }
  for (int64_t s = depth.main; s < depth.total(); ++s) {
    if (s == depth.main && job.alpha != 1) {
      all_sums([]<int Sum>(float* at) { tile_store<Sum>(at, 128); });
      tile_fence();
      for (int64_t i = 0; i < (kCount > 2 ? 2 : 1) * kHalf; i += 16)
        store(c + i, mul(load(c + i), splat(job.alpha)));
      tile_fence();
      all_sums([]<int Sum>(float* at) { tile_load<Sum>(at, 128); });
    }
    load_x(scratch.x + (s - depth.main) * job.t * 64, 64);
    const auto one = [&]<int S>() {
      pack_w(call, n + S * 16, 16, s, scratch.spare);
      Vec r[16];
      for (int64_t i = 0; i < 16; ++i)
        r[i] = load(reinterpret_cast<const float*>(scratch.spare) + i * 16);
      transpose(r, reinterpret_cast<float*>(scratch.spare), 16);
      tile_fence();
      tile_load<4 + S % 2>(scratch.spare, 64);
      tile_fence();
      multiply.template operator()<S>();
    };
    (one.template operator()<Strip>(), ...);
  }
  all_sums([]<int Sum>(float* at) { tile_store<Sum>(at, 128); });
  tile_fence();
}

// Columns [n, n + count) of y to c, count <= 64 / XTiles and a multiple of 16.
template <int XTiles>
void columns_expanded(const Call& call, int64_t n, int64_t count) {
  float* c = call.scratch.c;
  if constexpr (XTiles == 1) {
    if (count == 64) return strips_expanded<1, 0, 1, 2, 3>(call, n, c);
    if (count > 32) {
      strips_expanded<1, 0, 1>(call, n, c);
      n += 32;
      count -= 32;
      c += kHalf;
    }
  }
  if (count == 32) return strips_expanded<XTiles, 0, 1>(call, n, c);
  strips_expanded<XTiles, 0>(call, n, c);
}

// ---- Both

void prepare(const GemmJob* job, void* scratch_data) {
  const Depth depth = depth_of(*job);
  char* x = scratch_at(*job, scratch_data).x;
  if (job->w.strips) return split_x2(*job, depth, x);
  for (int64_t tile = 0; tile < x_tiles(*job); ++tile) {
    const int64_t rows = x_rows(*job, tile);
    pack_x(*job, depth, tile * 16, rows, x);
    x += depth.total() * 64 * rows;
  }
}

void stream(const GemmJob* job_pointer, int64_t n0, int64_t cols, void* scratch_data) {
  const GemmJob& job = *job_pointer;
  const Call call = {job, depth_of(job), split_order(job.r <= kSplitRank ? job.r : 0),
                     scratch_at(job, scratch_data)};
  const Scratch& scratch = call.scratch;
  const bool packed = job.w.strips, two = x_tiles(job) == 2;
  const auto compute = packed ? (two ? columns_expanded<2> : columns_expanded<1>)
                              : (two ? columns_in_place<2> : columns_in_place<1>);
  const int64_t together = packed && !two ? kGemmStreamCols : 32;
  tiles_begin(job);

  Between between;
  between.y_stride = job.y.stride;
  between.add_stride = job.add.stride;
  between.y_bf16 = job.y.type == GemmElem::bf16;
  between.add_bf16 = job.add.type == GemmElem::bf16;
  between.scale = job.alpha != 1 && job.r == 0;
  between.alpha = job.alpha;
  for (int64_t first = 0; first < cols; first += together) {
    const int64_t wide = min_of(together, cols - first);
    compute(call, n0 + first, wide);
    for (int64_t half = 0; half < wide; half += 32) {
      const int64_t n = n0 + first + half, count = min_of<int64_t>(32, wide - half);
      if (job.bias.data) {
        for (int64_t i = 0; i < 32; i += 16) {
          store(scratch.bias + i, i < count ? expand_some(job.bias.type, at(job.bias, 0, n + i),
                                                          min_of<int64_t>(16, count - i))
                                            : zero());
        }
        between.bias = scratch.bias;
      }
      between.c = scratch.c + half / 32 * kHalf;
      between.y = const_cast<char*>(at(job.y, 0, n));
      between.add = job.add.data ? at(job.add, 0, n) : nullptr;
      between.row = 0;
      between.rows = job.t;
      between.columns = static_cast<__mmask32>((uint64_t{1} << count) - 1);
      between.flush();
    }
  }
  _tile_release();
}
}  // namespace

extern const GemmStreamPath kGemmStreamAmx;
const GemmStreamPath kGemmStreamAmx = {prepare, stream};

}  // namespace hone::cpu
