// gcc 12 takes the undefined operands of its own intrinsics for our mistakes
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
#include "backend/cpu/gemm_groups.inl"

inline Vec multiply_add(Vec a, Vec b, Vec c) {
  return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

int64_t pairs(int64_t n) { return (n + 1) / 2; }

// x is read in place where its pairs lie there.
bool in_place(const GemmJob& job) { return !job.x_by_depth && job.k % 2 == 0; }

// Prepared: x as [rows][pairs], or by groups of rows if it lies by depth, unless it is read in
// place; then the two parts of x2, [rows][pairs] each.
struct Layout {
  char *main, *high, *low;
};
Layout layout(const GemmJob& job, const GemmChunk& chunk) {
  char* base = static_cast<char*>(chunk.prepared);
  char* high = base + (in_place(job) ? 0 : whole_groups(chunk.rows) * pairs(job.k) * 4);
  return {base, high, high + chunk.rows * pairs(job.r) * 4};
}

void prepare(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows) {
  const Layout to = layout(*job, *chunk);
  const int64_t t = t0 - chunk->begin;
  const auto store_some = [](char* out, Vec v, int64_t words) {
    _mm512_mask_storeu_epi32(out, static_cast<__mmask16>((1u << words) - 1),
                             _mm512_castps_si512(v));
  };
  const auto copy_rows = [&](const GemmMatrix& x, int part, char* out) {
    const int64_t words = pairs(x.cols);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t d = 0; d < words; d += 16) {
        const int64_t some = min_of<int64_t>(16, words - d);
        store_some(out + ((t + i) * words + d) * 4, row_words(x, part, t0 + i, d, some), some);
      }
    }
  };
  if (job->x_by_depth) {
    float* out = reinterpret_cast<float*>(to.main);
    copy_groups(job->x, t0, rows, groups_of(out, *chunk, pairs(job->k)), t);
  } else if (!in_place(*job)) {
    copy_rows(job->x, 0, to.main);
  }
  if (job->r > 0) {
    copy_rows(job->x2, 0, to.high);
    copy_rows(job->x2, 1, to.low);
  }
}

int list_pieces(const GemmJob& job, const GemmChunk& chunk, int64_t t0, Piece* out) {
  const Layout from = layout(job, chunk);
  const int64_t t = t0 - chunk.begin, k = pairs(job.k), r = pairs(job.r);
  const Broadcast x = in_place(job) ? by_rows(at(job.x, t0, 0), job.x.stride)
                                    : by_rows(from.main + t * k * 4, k * 4);
  Piece first = {x, &job.w, 0, k, false};
  if (job.x_by_depth) {
    first.groups = groups_of(reinterpret_cast<float*>(from.main), chunk, k);
    first.row = t;
  }
  int n = 0;
  out[n++] = first;
  if (job.w.type == GemmElem::f32) {
    first.part = 1;
    out[n++] = first;
  }
  if (job.r > 0) {
    const char* parts[kSecondParts] = {from.high, from.low};
    for (const SecondProduct& product : kSecond)
      out[n++] = {by_rows(parts[product.x] + t * r * 4, r * 4), &job.w2, product.w, r, true};
  }
  return n;
}

//
#include "backend/cpu/gemm_words.inl"
//
#include "backend/cpu/gemm_panel.inl"
//
#include "backend/cpu/gemm_turned.inl"
}  // namespace

extern const GemmPath kGemmAvx512Bf16, kGemmAvx512Bf16Turned, kGemmAvx512Bf16Expanded;
const GemmPath kGemmAvx512Bf16 = {prepare, panel};
const GemmPath kGemmAvx512Bf16Turned = {prepare_turned, panel_turned};
const GemmPath kGemmAvx512Bf16Expanded = {prepare, panel_expanded};

}  // namespace hone::cpu
