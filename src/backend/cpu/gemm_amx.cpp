// gemm in tiles of AMX: y in blocks of 32 x 32 (2 x 2 tiles), steps of 32 along the depth, each
// element one chain over all steps in order (a step of an fp32 w is two: the high parts, then the
// low parts).
//
// A panel of w lies packed in tile order in L2 and meets 32 rows of x at a time. The depth is taken
// in segments short enough that the segment of x stays in L1 while the panel's columns pass; sums
// wait in L2 between segments. Rounding and storing a block, and the fetching of the next rows, are
// done between the tile instructions of the block after it, which leave the vector units idle. gcc
// 12 takes the undefined operands of its own intrinsics for our mistakes
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
//
#include "backend/cpu/gemm_tiles.inl"

constexpr int64_t kSegment = 16;  // steps: 32 kB of x in L1

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

// Rows [t, t + count) of x, count <= 16, steps [first, total) as [step][2 tiles], this tile at out
// + step * kStepBytes. Rows behind count are left as they are: what they hold reaches no other row.
void prepare_tile(const GemmJob& job, const Depth& depth, int64_t t, int64_t count, int64_t first,
                  char* out) {
  const int64_t pairs = (job.k + 1) / 2;
  for (int64_t s = first; s < depth.main; ++s) {
    float* tile = reinterpret_cast<float*>(out + s * kStepBytes);
    const int64_t words = min_of<int64_t>(16, pairs - s * 16);
    if (job.x_by_depth) {
      Vec r[16];
      for (int64_t p = 0; p < 16; ++p)
        r[p] = p < words ? column_words(job.x, 0, s * 16 + p, t, count) : zero();
      transpose(r, tile, 16);
    } else if (words == 16 && job.k % 2 == 0) {
      const char* x = at(job.x, t, s * 32);
      for (int64_t i = 0; i < count; ++i, x += job.x.stride) {
        _mm_prefetch(x + 512, _MM_HINT_T0);
        _mm512_store_si512(tile + i * 16, _mm512_loadu_si512(x));
      }
    } else {
      for (int64_t i = 0; i < count; ++i)
        store(tile + i * 16, row_words(job.x, 0, t + i, s * 16, words));
    }
  }
  for (int64_t s = first > depth.main ? first : depth.main; s < depth.total(); ++s) {
    uint16_t* tile = reinterpret_cast<uint16_t*>(out + s * kStepBytes);
    for (int64_t i = 0; i < count; ++i) {
      split_row(at(job.x2, t + i, 0), job.r, true, (s - depth.main) * 32, tile + i * 32);
    }
  }
}

// Blocks of 32 rows, each [step][2 tiles][16 rows][32 elements], of the steps that aren't read in
// place.
void prepare(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows) {
  const Depth depth = depth_of(*job);
  const int64_t skip = chunk->in_place, block_bytes = (depth.total() - skip) * kStepBytes;
  for (int64_t t = t0; t < t0 + rows; t += 16) {
    const int64_t from_begin = t - chunk->begin;
    char* block =
        static_cast<char*>(chunk->prepared) + from_begin / kBlock * block_bytes - skip * kStepBytes;
    prepare_tile(*job, depth, t, min_of<int64_t>(16, t0 + rows - t), skip,
                 block + from_begin % kBlock / 16 * kTileBytes);
  }
}

// A tile of w: columns n0.. (count of them) at a step of its depth.
inline void pack_tile(const GemmJob& job, int part, int64_t step, int64_t n0, int64_t count,
                      float* out) {
  if (job.w.strips) {
    // columns and depth are whole tiles, whose lines are those of out
    const PackedStrip strip = strip_at(job.w, n0);
    fetch_tile(strip.tile(step) + 2048);
    if (const char* lines = strip.plain(step); lines != nullptr) {
      __builtin_memcpy(out, lines, kTileBytes);
    } else {
      strip.expand(step, [&](int64_t i, __m512i v) { _mm512_store_si512(out + i * 16, v); });
    }
    return;
  }
  const int64_t pairs = (job.k + 1) / 2, words = min_of<int64_t>(16, pairs - step * 16);
  if (job.w_by_depth) {
    if (count >= 16 && job.w.type == GemmElem::bf16 && step * 32 + 32 <= job.k) {
      const char* w = at(job.w, step * 32, n0);
      for (int64_t p = 0; p < 16; ++p, w += 2 * job.w.stride) {
        const __m512i even =
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
        const __m512i odd = _mm512_cvtepu16_epi32(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + job.w.stride)));
        _mm512_store_si512(out + p * 16, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
      }
      return;
    }
    for (int64_t p = 0; p < 16; ++p) {
      store(out + p * 16, p < words ? column_words(job.w, part, step * 16 + p, n0, count) : zero());
    }
    return;
  }
  Vec r[16];
  if (count >= 16 && job.w.type == GemmElem::bf16 && step * 32 + 32 <= job.k) {
    const char* w = at(job.w, n0, step * 32);
    // eight steps ahead, at the end those of the next rows
    const int64_t steps = job.k / 32, next = step + 8 - steps;
    const int64_t ahead = next < 0 ? 512 : 16 * job.w.stride + (next - step) * 64;
    for (int64_t i = 0; i < 16; ++i, w += job.w.stride) {
      _mm_prefetch(w + ahead, _MM_HINT_T0);
      r[i] = load(reinterpret_cast<const float*>(w));
    }
  } else {
    for (int64_t i = 0; i < 16; ++i)
      r[i] = i < count ? row_words(job.w, part, n0 + i, step * 16, words) : zero();
  }
  transpose(r, out, 16);
}

// The same of w2's parts.
void pack_second(const GemmJob& job, int64_t step, int64_t n0, int64_t count, float* out) {
  if (job.w_by_depth) {
    for (int64_t p = 0; p < 16; ++p) {
      __m512i word = _mm512_setzero_si512();
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t e = step * 32 + p * 2 + half;
        if (e >= 3 * job.r) continue;
        const __m512i v = upper(GemmElem::f32, e / job.r == 2, at(job.w2, e % job.r, n0), count);
        word = _mm512_or_si512(word, half ? v : _mm512_srli_epi32(v, 16));
      }
      _mm512_store_si512(out + p * 16, word);
    }
    return;
  }
  Vec r[16];
  for (int64_t i = 0; i < 16; ++i) {
    uint16_t line[32] = {};
    if (i < count) split_row(at(job.w2, n0 + i, 0), job.r, false, step * 32, line);
    r[i] = load(reinterpret_cast<const float*>(line));
  }
  transpose(r, out, 16);
}

// w's columns [n0, n0 + cols), steps [first, last), as [32 columns][step][part][2 tiles];
// depth_block steps apart.
void pack_panel(const GemmJob& job, const Depth& depth, int64_t n0, int64_t cols, int64_t first,
                int64_t last, int64_t depth_block, char* packed) {
  const int64_t tiles = ceil_div(cols, 16);
  const int64_t pitch = depth.parts * kStepBytes;
  const auto pack = [&](int64_t tile, int64_t s) {
    const int64_t n = tile * 16, count = min_of<int64_t>(16, cols - n);
    char* out = packed + (tile / 2 * depth_block + s - first) * pitch + tile % 2 * kTileBytes;
    if (s >= depth.main) {
      pack_second(job, s - depth.main, n0 + n, count, reinterpret_cast<float*>(out));
      return;
    }
    for (int64_t part = 0; part < depth.parts; ++part) {
      pack_tile(job, static_cast<int>(part), s, n0 + n, count,
                reinterpret_cast<float*>(out + part * kStepBytes));
    }
  };
  if (job.w_by_depth) {
    for (int64_t s = first; s < last; ++s) {
      for (int64_t tile = 0; tile < tiles; ++tile) pack(tile, s);
    }
  } else {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      for (int64_t s = first; s < last; ++s) pack(tile, s);
    }
  }
}

// Where the tiles of x lie in a run of steps: rows stride bytes apart, the second tile and the next
// step so many bytes further.
struct Rows {
  const char* data;
  int64_t stride, second, next, steps;
};

// Tiles 0..3 += x w over two runs of steps; w is [step][Parts][2 tiles], pitch bytes a step. w goes
// past L1, where x stays.
template <bool Rows32, bool Cols32, int Parts>
void multiply(const Rows (&runs)[2], const char* w, int64_t pitch, Between& between) {
  between.rows_per_step = ceil_div(between.rows - between.row, runs[0].steps + runs[1].steps);
  for (const Rows& x : runs) {
    const char* a = x.data;
    for (int64_t s = 0; s < x.steps; ++s, a += x.next, w += pitch) {
      _tile_loadd(4, a, x.stride);
      _tile_stream_loadd(6, w, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (Cols32) {
        _tile_stream_loadd(7, w + kTileBytes, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (Rows32) {
        _tile_loadd(5, a + x.second, x.stride);
        _tile_dpbf16ps(2, 5, 6);
      }
      between.step();
      if constexpr (Rows32 && Cols32) _tile_dpbf16ps(3, 5, 7);
      if constexpr (Parts == 2) {
        _tile_stream_loadd(6, w + kStepBytes, 64);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (Rows32) _tile_dpbf16ps(2, 5, 6);
        if constexpr (Cols32) {
          _tile_stream_loadd(7, w + kStepBytes + kTileBytes, 64);
          _tile_dpbf16ps(1, 4, 7);
          if constexpr (Rows32) _tile_dpbf16ps(3, 5, 7);
        }
      }
    }
  }
}

using Multiply = void (*)(const Rows (&)[2], const char*, int64_t, Between&);
// by parts - 1, rows32, cols32
constexpr Multiply kMultiply[2][2][2] = {{{multiply<false, false, 1>, multiply<false, true, 1>},
                                          {multiply<true, false, 1>, multiply<true, true, 1>}},
                                         {{multiply<false, false, 2>, multiply<false, true, 2>},
                                          {multiply<true, false, 2>, multiply<true, true, 2>}}};

// scratch: w of depth_block steps, [32 columns][step][part][2 tiles]; sums as blocks of 32 x 32,
// all of the panel's where the depth is cut, else 32 rows of them; bias; where chunk->prepared is
// null, one block of x.
void panel(const GemmJob* job_pointer, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
           int64_t cols, void* scratch) {
  const GemmJob& job = *job_pointer;
  const Depth depth = depth_of(job);
  const int64_t total = depth.total(), pitch = depth.parts * kStepBytes;
  const bool scale_between = job.alpha != 1 && job.r > 0;
  const int64_t depth_block = chunk->depth_block;
  const bool cut = total > depth_block || scale_between;
  const int64_t subs = ceil_div(cols, kBlock), blocks = ceil_div(rows, kBlock);
  char* packed = static_cast<char*>(scratch);
  float* sums = reinterpret_cast<float*>(packed + subs * depth_block * pitch);
  float* bias = sums + (cut ? blocks : 1) * subs * kBlock * kBlock;
  alignas(64) float done[kBlock * kBlock];
  char* own = reinterpret_cast<char*>(bias + subs * kBlock);
  if (job.bias.data) {
    for (int64_t n = 0; n < subs * kBlock; n += 16) {
      store(bias + n, n < cols ? expand_some(job.bias.type, at(job.bias, 0, n0 + n),
                                             min_of<int64_t>(16, cols - n))
                               : zero());
    }
  }
  Between between;
  between.y_stride = job.y.stride;
  between.add_stride = job.add.stride;
  between.y_bf16 = job.y.type == GemmElem::bf16;
  between.add_bf16 = job.add.type == GemmElem::bf16;
  between.scale = job.alpha != 1 && job.r == 0;
  between.alpha = job.alpha;
  tiles_begin();
  int64_t first = 0;
  do {
    int64_t last = min_of(first + depth_block, total);
    if (scale_between && first < depth.main) last = min_of(last, depth.main);
    pack_panel(job, depth, n0, cols, first, last, depth_block, packed);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t t = block * kBlock, count = min_of(kBlock, rows - t);
      // Steps before direct are read where x lies, the others from the prepared block. A last block
      // of another number of rows than whole tiles can't be read in place.
      const int64_t direct = count % 16 == 0 ? chunk->in_place : 0;
      const char* prepared;
      if (chunk->prepared && direct == chunk->in_place) {
        const int64_t block_bytes = (total - direct) * kStepBytes;
        prepared = static_cast<const char*>(chunk->prepared) +
                   (t0 + t - chunk->begin) / kBlock * block_bytes - direct * kStepBytes;
        between.fetch = prepared + block_bytes + (direct > first ? direct : first) * kStepBytes;
        between.fetch_end = prepared + block_bytes + last * kStepBytes;
      } else {
        for (int64_t i = 0; i < count; i += 16) {
          prepare_tile(job, depth, t0 + t + i, min_of<int64_t>(16, count - i),
                       direct > first ? direct : first, own + i / 16 * kTileBytes);
        }
        prepared = own;
        between.fetch = between.fetch_end = nullptr;
      }
      between.rows_left = 0;
      if (block + 1 < blocks) {
        between.lines_per_step = ceil_div(32, subs);
        if (direct > first && rows - t - kBlock >= kBlock) {
          between.rows_left = kBlock;
          between.row_stride = job.x.stride;
          between.line = between.row_begin = at(job.x, t0 + t + kBlock, first * 32);
          between.row_bytes = (min_of(direct, last) - first) * 64;
        }
      } else {
        between.fetch = between.fetch_end = nullptr;
      }
      int64_t begin = first;
      do {
        const int64_t left = last - begin, cuts = ceil_div(left, kSegment);
        const int64_t end = cuts > 1 ? begin + ceil_div(left, cuts) : last;
        for (int64_t sub = 0; sub < subs; ++sub) {
          const bool rows32 = count > 16, cols32 = cols - sub * kBlock > 16;
          float* c = sums + ((cut ? block * subs : 0) + sub) * kBlock * kBlock;
          if (begin == 0) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
          } else {
            if (scale_between && begin == depth.main) {
              for (int64_t i = 0; i < kBlock * kBlock; i += 16)
                store(c + i, mul(load(c + i), splat(job.alpha)));
            }
            _tile_loadd(0, c, kBlock * 4);
            _tile_loadd(1, c + 16, kBlock * 4);
            _tile_loadd(2, c + 16 * kBlock, kBlock * 4);
            _tile_loadd(3, c + 16 * kBlock + 16, kBlock * 4);
          }
          const char* w = packed + (sub * depth_block - first) * pitch;
          for (int64_t s = begin; s < end;) {
            // parts of w2 are single
            const int64_t to = depth.parts == 2 && s < depth.main ? min_of(end, depth.main) : end;
            const int64_t mid = min_of(to, direct > s ? direct : s);
            const Rows runs[2] = {
                {at(job.x, t0 + t, s * 32), job.x.stride, 16 * job.x.stride, 64, mid - s},
                {prepared + mid * kStepBytes, 64, kTileBytes, kStepBytes, to - mid}};
            kMultiply[s < depth.main ? depth.parts - 1 : 0][rows32][cols32](runs, w + s * pitch,
                                                                            pitch, between);
            s = to;
          }
          between.flush();
          if (end == total) c = done;
          _tile_stored(0, c, kBlock * 4);
          _tile_stored(1, c + 16, kBlock * 4);
          _tile_stored(2, c + 16 * kBlock, kBlock * 4);
          _tile_stored(3, c + 16 * kBlock + 16, kBlock * 4);
          if (end == total) {
            const int64_t n = sub * kBlock, width = min_of(kBlock, cols - n);
            between.c = c;
            between.y = const_cast<char*>(at(job.y, t0 + t, n0 + n));
            // the block finished two blocks later
            const int64_t next = sub + 2, next_block = block + next / subs;
            between.ahead = next_block < blocks
                                ? const_cast<char*>(at(job.y, t0 + next_block * kBlock,
                                                       n0 + next % subs * kBlock))
                                : nullptr;
            between.add = job.add.data ? at(job.add, t0 + t, n0 + n) : nullptr;
            between.bias = job.bias.data ? bias + n : nullptr;
            between.row = 0;
            between.rows = count;
            between.columns = static_cast<__mmask32>((uint64_t{1} << width) - 1);
          }
        }
        begin = end;
      } while (begin < last);
    }
    first = last;
  } while (first < total);
  between.flush();
  _tile_release();
}
}  // namespace

extern const GemmPath kGemmAmx;
const GemmPath kGemmAmx = {prepare, panel};

}  // namespace hone::cpu
