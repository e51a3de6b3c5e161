// y = x Wᵀ for at most 32 rows of x, with AMX: the memory traffic of W is all that counts. W's rows
// are the first operand of the tile product as they lie in memory (bf16t: as they are expanded) and
// x, packed once a worker, is the second, so that y comes out transposed. A product of two numbers
// doesn't depend on their order, so the bits are those of gemm_amx.cpp. gcc 12 takes the undefined
// operands of its own intrinsics for our mistakes
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
#include "backend/cpu/bf16t.inl"
//
#include "backend/cpu/amx_tile.inl"

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Rows of x go in tiles of 16, the last with what is left.
int64_t x_tiles(const GemmJob& job) { return ceil_div(job.t, 16); }
int64_t x_rows(const GemmJob& job, int64_t tile) { return min_of<int64_t>(16, job.t - tile * 16); }

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

// A worker's scratch: packed x, tile after tile; bias; c[32 rows][32 columns]; y transposed, [strip
// of 16 columns][tile of x][16 columns][16 rows]; tiles of w. One row of y: [columns].
struct Scratch {
  char* x;
  float *bias, *c, *transposed;
  char* spare;
};
constexpr int64_t kSpareTiles = 8;
Scratch scratch_at(const GemmJob& job, void* data) {
  Scratch s = {};
  s.x = static_cast<char*>(data);
  s.bias = reinterpret_cast<float*>(s.x + depth_of(job).total() * 64 * job.t);
  s.c = s.bias + 32;
  s.transposed = s.c + 32 * 32;
  s.spare = reinterpret_cast<char*>(s.transposed + kGemmStreamCols * 16);
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

// Strips of 16 columns of y from column n on, against the tiles of x. Their sums are in the tile
// registers strip * XTiles + tile of x, W goes through 4 and 5, x through 6 and 7.
template <int XTiles, int... Strip>
struct Strips {
  static constexpr int64_t kCount = sizeof...(Strip);
  const GemmJob& job;
  const Depth& depth;
  const SplitOrder& order;
  const Scratch& scratch;
  int64_t n;
  float* out;

  const int64_t line = x_rows(job, 0) * 4, second_line = x_rows(job, XTiles - 1) * 4;
  const char* second_x = scratch.x + depth.total() * 16 * line;
  const int64_t out_line = job.t == 1 ? 4 : 64, out_tile = 4 * out_line;

  void begin() const {
    (tile_zero<Strip * XTiles>(), ...);
    if constexpr (XTiles == 2) (tile_zero<Strip * 2 + 1>(), ...);
  }
  void load_x(int64_t step) const {
    tile_load<6>(scratch.x + step * 16 * line, line);
    if constexpr (XTiles == 2) tile_load<7>(second_x + step * 16 * second_line, second_line);
  }
  template <int S>
  static void multiply() {
    tile_multiply<S * XTiles, 4 + S % 2, 6>();
    if constexpr (XTiles == 2) tile_multiply<S * 2 + 1, 4 + S % 2, 7>();
  }
  template <int S>
  void end_strip() const {
    tile_store<S * XTiles>(out + S * XTiles * out_tile, out_line);
    if constexpr (XTiles == 2) tile_store<S * 2 + 1>(out + (S * 2 + 1) * out_tile, out_line);
  }
  void end() const {
    (end_strip<Strip>(), ...);
    tile_fence();
  }
  template <int S>
  void load_strip() const {
    tile_load<S * XTiles>(out + S * XTiles * out_tile, out_line);
    if constexpr (XTiles == 2) tile_load<S * 2 + 1>(out + (S * 2 + 1) * out_tile, out_line);
  }
  // Sums times alpha.
  void scale() const {
    end();
    for (int64_t i = 0; i < kCount * XTiles * out_tile; i += 16)
      store(out + i, mul(load(out + i), splat(job.alpha)));
    tile_fence();
    (load_strip<Strip>(), ...);
  }
  // Steps from first on, whose tiles of w are packed; so many columns of the last strip.
  void packed_steps(int64_t first, int64_t last_columns) const {
    for (int64_t s = first; s < depth.total(); ++s) {
      if (s == depth.main && job.alpha != 1) scale();
      load_x(s);
      const auto one = [&]<int S>() {
        pack_w(job, depth, order, n + S * 16, S + 1 == kCount ? last_columns : 16, s,
               scratch.spare);
        tile_fence();
        tile_load<4 + S % 2>(scratch.spare, 64);
        multiply<S>();
        tile_fence();
      };
      (one.template operator()<Strip>(), ...);
    }
  }
};

// One strip of a bf16 W, count columns of it, read where it lies. Only the beginnings of the next
// 16 rows are fetched before their use: the processor's own fetching keeps up with 16 rows once
// they have begun, and better so than with 32 or with prefetch instructions at any distance that
// was tried.
template <int XTiles>
void strip_in_place(const Strips<XTiles, 0>& of, int64_t count) {
  const GemmJob& job = of.job;
  const int64_t in_place = count == 16 ? job.k / 32 : 0;
  const char* w = at(job.w, of.n, 0);
  of.begin();
  for (int64_t s = 0; s < in_place; ++s) {
    of.load_x(s);
    tile_stream<4>(w + s * 64, job.w.stride);
    of.template multiply<0>();
  }
  of.packed_steps(in_place, count);
  if (of.n + 32 <= job.n) {
    for (const char *row = w + 16 * job.w.stride, *end = row + 16 * job.w.stride; row < end;
         row += job.w.stride) {
      _mm_prefetch(row, _MM_HINT_T1);
      _mm_prefetch(row + 64, _MM_HINT_T1);
    }
  }
  of.end();
}

// Strips of a bf16t W, several at a time, since several are read faster than one. Their tiles are
// expanded into a few places in turn, and fetched so far ahead; behind the last of a strip those of
// the strips that come next.
constexpr int64_t kTilesAhead = 2;

template <int XTiles, int... Strip>
void strips_expanded(const Strips<XTiles, Strip...>& of) {
  const GemmJob& job = of.job;
  const int64_t steps = of.depth.main, strip_bytes = kStripRows * job.w.stride;
  const char* w = static_cast<const char*>(job.w.data) + of.n * job.w.stride;
  const char* tiles = w + strip_header(job.k);
  const char* next = tiles + of.kCount * strip_bytes - steps * kShortTile;
  int64_t place = 0;
  of.begin();
  for (int64_t s = 0; s < steps; ++s, tiles += kShortTile) {
    of.load_x(s);
    const char* ahead =
        (s + kTilesAhead < steps ? w + strip_header(job.k) : next) + (s + kTilesAhead) * kShortTile;
    const auto one = [&]<int S>() __attribute__((always_inline)) {
      const char *tile = tiles + S * strip_bytes, *fetch = ahead + S * strip_bytes;
      for (int64_t i = 0; i < kShortTile; i += 64) _mm_prefetch(fetch + i, _MM_HINT_T0);
      if (const int base = static_cast<uint8_t>(w[S * strip_bytes + s]); base != 0) {
        char* expanded = of.scratch.spare + place++ % kSpareTiles * kTileBytes;
        expand_short(tile, base,
                     [&](int64_t i, __m512i v) { _mm512_store_si512(expanded + i * 64, v); });
        tile_fence();
        tile_load<4 + S % 2>(expanded, 64);
      } else {
        tile_load<4 + S % 2>(raw_tile(tile), 64);
      }
      of.template multiply<S>();
    };
    (one.template operator()<Strip>(), ...);
  }
  of.packed_steps(steps, kStripRows);
  of.end();
}

// Columns [n, n + count) of y, count <= 64 / XTiles, transposed to out.
template <int XTiles>
void columns(const GemmJob& job, const Depth& depth, const SplitOrder& order, int64_t n,
             int64_t count, const Scratch& scratch) {
  float* out = scratch.transposed;
  const int64_t out_strip = (job.t == 1 ? 16 : 256) * XTiles;
  const auto strips = [&]<int... Strip>(int64_t strip, std::integer_sequence<int, Strip...>) {
    return Strips<XTiles, Strip...>{
        job, depth, order, scratch, n + strip * kStripRows, out + strip * out_strip};
  };
  const auto some = [&]<int Count>(int64_t strip) {
    strips_expanded(strips(strip, std::make_integer_sequence<int, Count>()));
  };
  if (job.w.type != GemmElem::bf16t) {
    for (int64_t i = 0; i < count; i += 16) {
      strip_in_place(strips(i / 16, std::make_integer_sequence<int, 1>()),
                     min_of<int64_t>(16, count - i));
    }
    return;
  }
  int64_t strip = 0, left = count / kStripRows;
  if constexpr (XTiles == 1) {
    for (; left >= 4; strip += 4, left -= 4) some.template operator()<4>(strip);
  }
  for (; left >= 2; strip += 2, left -= 2) some.template operator()<2>(strip);
  if (left > 0) some.template operator()<1>(strip);
}

void prepare(const GemmJob* job, void* scratch_data) {
  const Depth depth = depth_of(*job);
  char* x = scratch_at(*job, scratch_data).x;
  for (int64_t tile = 0; tile < x_tiles(*job); ++tile) {
    const int64_t rows = x_rows(*job, tile);
    pack_x(*job, depth, tile * 16, rows, x);
    x += depth.total() * 64 * rows;
  }
}

void stream(const GemmJob* job_pointer, int64_t n0, int64_t cols, void* scratch_data) {
  const GemmJob& job = *job_pointer;
  const Depth depth = depth_of(job);
  const Scratch scratch = scratch_at(job, scratch_data);
  const SplitOrder order = split_order(job.r <= kSplitRank ? job.r : 0);
  const int64_t tiles = x_tiles(job);

  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    // the second tile of x is odd, and so are its sums
    const bool of_w = i == 4 || i == 5;
    const int64_t tile = tiles == 2 ? i % 2 : 0;
    config.row_bytes[i] = static_cast<uint16_t>(of_w ? 64 : x_rows(job, tile) * 4);
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
  const int64_t together = kGemmStreamCols / tiles;
  for (int64_t first = 0; first < cols; first += together) {
    const int64_t wide = min_of(together, cols - first);
    (tiles == 2 ? columns<2> : columns<1>)(job, depth, order, n0 + first, wide, scratch);
    for (int64_t half = 0; half < wide; half += 32) {
      const int64_t n = n0 + first + half, count = min_of<int64_t>(32, wide - half);
      for (int64_t side = 0; side < (job.t == 1 ? 0 : count); side += 16) {
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const float* from = scratch.transposed + ((half + side) / 16 * tiles + tile) * 256;
          Vec r[16];
          for (int64_t i = 0; i < 16; ++i) r[i] = load(from + i * 16);
          transpose(r, scratch.c + tile * 16 * 32 + side, 32);
        }
      }
      if (job.bias.data) {
        for (int64_t i = 0; i < 32; i += 16) {
          store(scratch.bias + i, i < count ? expand_some(job.bias.type, at(job.bias, 0, n + i),
                                                          min_of<int64_t>(16, count - i))
                                            : zero());
        }
        between.bias = scratch.bias;
      }
      between.c = job.t == 1 ? scratch.transposed + half : scratch.c;
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
