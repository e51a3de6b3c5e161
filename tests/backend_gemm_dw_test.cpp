// gemm_dw of every path this machine has against the f64 reference.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/desc/gemm.h"
#include "support/gemm_matrix.h"

namespace hone {
namespace {

using cpu::Isa;
using test::isa_label;
using test::Matrix;
using test::run;

struct DwCase {
  int64_t t, n, k;
  DType dy, x;
  bool bias = false;
  float alpha = 1;
  int64_t gap = 0;
  std::vector<int32_t> offsets = {};
};

void check_dw(Isa isa, const DwCase& c, uint32_t seed) {
  const std::string text = "T" + std::to_string(c.t) + " N" + std::to_string(c.n) + " K" +
                           std::to_string(c.k) + " " + std::string(dtype_name(c.dy)) + " " +
                           std::string(dtype_name(c.x)) + " alpha" + std::to_string(c.alpha);
  std::mt19937 rng(seed);
  Matrix dy(c.t, c.n, c.dy, c.gap), x(c.t, c.k, c.x, c.gap);
  dy.randomise(rng);
  x.randomise(rng);
  const size_t groups = c.offsets.empty() ? 1 : c.offsets.size() - 1;
  std::vector<Matrix> got, want;
  std::vector<View> got_views, want_views;
  for (size_t g = 0; g < groups; ++g) {
    got.emplace_back(c.n, c.k, DType::f32, c.gap);
    got.back().randomise(rng);
  }
  want = got;
  const std::vector<Matrix> start = got;
  Matrix bias(1, c.n, DType::f32), bias_want(1, c.n, DType::f32);
  bias.randomise(rng);
  bias_want = bias;
  for (size_t g = 0; g < groups; ++g) {
    got_views.push_back(got[g].view());
    want_views.push_back(want[g].view());
  }
  GemmDwDesc d;
  d.dy = dy.view();
  d.x = x.view();
  d.dw = got_views.data();
  d.groups = static_cast<int>(groups);
  d.row_offsets = c.offsets.empty() ? nullptr : c.offsets.data();
  if (c.bias) d.dbias = bias.vector();
  d.alpha = c.alpha;
  ASSERT_EQ(run(cpu::gemm_dw(isa), d, 2).error, nullptr) << text;
  d.dw = want_views.data();
  if (c.bias) d.dbias = bias_want.vector();
  ASSERT_EQ(run(cpu::gemm_dw(Isa::reference), d, 1).error, nullptr) << text;
  const bool split = isa >= Isa::avx512bf16 && c.dy != c.x;
  for (size_t g = 0; g < groups; ++g) {
    EXPECT_TRUE(got[g].guards_hold()) << text;
    const int64_t begin = c.offsets.empty() ? 0 : c.offsets[g],
                  end = c.offsets.empty() ? c.t : c.offsets[g + 1];
    const double chain = 4 * std::sqrt(static_cast<double>(end - begin + 2)) * std::ldexp(1, -24) +
                         (split ? std::ldexp(1, -15) : 0);
    double ratio = 0;
    for (int64_t n = 0; n < c.n; ++n) {
      for (int64_t k = 0; k < c.k; ++k) {
        double m = std::abs(start[g].get(n, k));
        for (int64_t t = begin; t < end; ++t) m += std::abs(c.alpha * dy.get(t, n) * x.get(t, k));
        const double r = std::abs(got[g].get(n, k) - want[g].get(n, k)) / (m * chain);
        ratio = std::isnan(r) ? 1e9 : std::max(r, ratio);
      }
    }
    EXPECT_LE(ratio, 1) << text;
  }
  if (c.bias) {
    for (int64_t n = 0; n < c.n; ++n) {
      EXPECT_NEAR(bias.get(0, n), bias_want.get(0, n),
                  1e-5 * std::sqrt(static_cast<double>(c.t + 1)) * 4)
          << text;
    }
    EXPECT_TRUE(bias.guards_hold());
  }
  // the same bits on one thread
  std::vector<Matrix> again = start;
  std::vector<View> again_views;
  for (Matrix& m : again) again_views.push_back(m.view());
  d.dw = again_views.data();
  d.dbias = {};
  ASSERT_EQ(run(cpu::gemm_dw(isa), d, 1).error, nullptr) << text;
  for (size_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < c.n; ++n) {
      ASSERT_EQ(std::memcmp(again[g].at(n, 0), got[g].at(n, 0), static_cast<size_t>(c.k) * 4), 0)
          << text;
    }
  }
}

class GemmDwPaths : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(All, GemmDwPaths, testing::ValuesIn(cpu::available_isas()), isa_label);

TEST_P(GemmDwPaths, WeightGradients) {
  const int64_t shapes[][3] = {{1, 1, 1},     {3, 5, 2},      {33, 40, 70},   {100, 8, 130},
                               {129, 130, 8}, {400, 70, 40},  {300, 8, 1100}, {90, 33, 200},
                               {90, 200, 33}, {500, 130, 520}};
  for (DType dy : {DType::bf16, DType::f32}) {
    for (DType x : {DType::bf16, DType::f32}) {
      for (const auto& s : shapes) {
        check_dw(GetParam(), {s[0], s[1], s[2], dy, x}, 21);
        check_dw(GetParam(), {s[0], s[1], s[2], dy, x, true, 0.25F, 3}, 22);
      }
      check_dw(GetParam(), {70, 24, 33, dy, x, false, 1, 1, {0, 0, 1, 34, 34, 70}}, 23);
      check_dw(GetParam(), {70, 45, 5, dy, x, false, -2, 1, {0, 0, 1, 34, 34, 70}}, 24);
      check_dw(GetParam(), {70, 5, 45, dy, x, false, -2, 1, {0, 0, 1, 34, 34, 70}}, 25);
      check_dw(GetParam(), {90, 100, 64, dy, x, true, 1, 0}, 26);
    }
  }
}

}  // namespace
}  // namespace hone
