// Attention of bf16 tensors with VDPBF16PS: every product is of bf16 pairs into fp32.
#include <immintrin.h>

#include <utility>

#include "backend/cpu/attention.h"

namespace hone::cpu {
namespace {

constexpr int kExp2Degree = 5;
#include "backend/cpu/attention_exp2.inc"
#include "backend/cpu/attention_vec512.inc"
// The order matters: vectors, packs, products, attention.
#include "backend/cpu/attention_pairs.inc"

template <int kRows, int kVectors>
void mm_micro(int pairs, const uint16_t* a, int lda, const uint16_t* b, int ldb, float* c, int ldc,
              bool accumulate) {
  vf acc[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) acc[i][j] = v_set(0);
  }
  for (int k = 0; k < pairs; ++k) {
    __m512bh y[kVectors];
    for (int j = 0; j < kVectors; ++j)
      y[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + 2 * (k * ldb + j * 16)));
    for (int i = 0; i < kRows; ++i) {
      int pair;
      __builtin_memcpy(&pair, a + i * lda + 2 * k, 4);
      const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      for (int j = 0; j < kVectors; ++j) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], x, y[j]);
    }
  }
  // c is added last: a sum of sums over k keeps rounding errors small.
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) {
      float* to = c + i * ldc + j * kW;
      v_store(to, accumulate ? v_add(v_load(to), acc[i][j]) : acc[i][j]);
    }
  }
}

constexpr int kVectors = 2, kRows = 8;
using Micro = void (*)(int, const uint16_t*, int, const uint16_t*, int, float*, int, bool);
struct MicroRows {
  Micro of[kRows];  // r rows: of[r - 1]
};
template <int... R>
constexpr MicroRows micro_rows(std::integer_sequence<int, R...>) {
  return {{mm_micro<R + 1, kVectors>...}};
}
constexpr MicroRows kMicro = micro_rows(std::make_integer_sequence<int, kRows>());

struct PairEngine : PairPacks {
  static constexpr int kRowStep = 1;
  static void begin() {}
  static void end() {}
  // c [m, n] = (accumulate: +=) a [m, k] b [k, n], b in pairs; n a multiple of 32, k even.
  static void mm(int m, int n, int k, const uint16_t* a, int lda, const uint16_t* b, int ldb,
                 float* c, int ldc, bool accumulate) {
    for (int j = 0; j < n; j += kVectors * 16) {
      for (int i = 0; i < m; i += kRows) {
        kMicro.of[(m - i < kRows ? m - i : kRows) - 1](k / 2, a + i * lda, lda, b + 2 * j, ldb,
                                                       c + i * ldc + j, ldc, accumulate);
      }
    }
  }
};

#include "backend/cpu/attention_impl.inc"

}  // namespace

AttentionPath attention_avx512bf16_path() { return path<PairEngine>(); }

}  // namespace hone::cpu
