// gemm of every path this machine has against the f64 reference, and its promise of exact rows.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
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

struct Case {
  int64_t t, n, k, r = 0;
  GemmOp op = GemmOp::nt;
  DType x = DType::bf16, w = DType::bf16, y = DType::bf16;
  bool bias = false;
  int add = 0;  // 1: y's dtype, 2: f32, 3: y itself
  float alpha = 1;
  int64_t gap = 0;
  std::vector<int32_t> offsets = {};

  std::string text() const {
    const auto name = [](DType d) { return std::string(dtype_name(d)); };
    return std::string(op == GemmOp::nt ? "nt" : "nn") + " T" + std::to_string(t) + " N" +
           std::to_string(n) + " K" + std::to_string(k) + " R" + std::to_string(r) + " " + name(x) +
           "*" + name(w) + "->" + name(y) + " bias" + std::to_string(bias) + " add" +
           std::to_string(add) + " alpha" + std::to_string(alpha) + " gap" + std::to_string(gap) +
           " groups" + std::to_string(offsets.size());
  }
};

// The operands of a case, and the case run by a kernel.
struct Problem {
  Case c;
  std::vector<Matrix> weights, weights2;
  Matrix x, x2, bias, add, start;

  Problem(const Case& the_case, uint32_t seed)
      : c(the_case),
        x(c.t, c.k, c.x, c.gap),
        x2(c.t, std::max<int64_t>(c.r, 1), DType::f32, c.gap),
        bias(1, c.n, c.x == DType::bf16 ? DType::bf16 : DType::f32),
        add(c.t, c.n, c.add == 1 ? c.y : DType::f32, c.gap),
        start(c.t, c.n, c.y, c.gap) {
    std::mt19937 rng(seed);
    const size_t groups = c.offsets.empty() ? 1 : c.offsets.size() - 1;
    const float scale = 1 / std::sqrt(static_cast<float>(c.k + 1));
    for (size_t g = 0; g < groups; ++g) {
      const bool nt = c.op == GemmOp::nt;
      weights.emplace_back(nt ? c.n : c.k, nt ? c.k : c.n, c.w, c.gap);
      weights.back().randomise(rng, scale);
      weights2.emplace_back(nt ? c.n : std::max<int64_t>(c.r, 1),
                            nt ? std::max<int64_t>(c.r, 1) : c.n, DType::f32, c.gap);
      weights2.back().randomise(rng, 0.3F);
    }
    x.randomise(rng);
    x2.randomise(rng);
    bias.randomise(rng);
    add.randomise(rng);
    start.randomise(rng);
  }

  // Rows [begin, end) computed alone (ungrouped), or the whole.
  Status run_into(const Kernel<GemmDesc>& kernel, int threads, Matrix& y, int64_t begin = 0,
                  int64_t end = -1) {
    if (end < 0) end = c.t;
    std::vector<WeightView> w, w2;
    for (Matrix& m : weights) w.push_back(m.weight());
    for (Matrix& m : weights2) w2.push_back(m.weight());
    GemmDesc d;
    d.op = c.op;
    d.x = x.rows(begin, end);
    d.weights = w.data();
    d.groups = static_cast<int>(w.size());
    d.row_offsets = c.offsets.empty() ? nullptr : c.offsets.data();
    d.y = y.rows(begin, end);
    if (c.r > 0) {
      d.x2 = x2.rows(begin, end);
      d.weights2 = w2.data();
    }
    if (c.bias) d.bias = bias.vector();
    Matrix add32 = add.as(DType::f32);
    if (c.add == 1 || c.add == 2)
      d.add = y.type() == c.y ? add.rows(begin, end) : add32.rows(begin, end);
    if (c.add == 3) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < c.n; ++j) y.set(i, j, start.get(i, j));
      }
      d.add = y.rows(begin, end);
    }
    d.alpha = c.alpha;
    return run(kernel, d, threads);
  }

  // Sum of |terms| of an element: what rounding errors scale with.
  double magnitude(int64_t t, int64_t n) const {
    size_t g = 0;
    while (!c.offsets.empty() && t >= c.offsets[g + 1]) ++g;
    const bool nt = c.op == GemmOp::nt;
    double m = 0;
    for (int64_t k = 0; k < c.k; ++k)
      m += std::abs(x.get(t, k) * (nt ? weights[g].get(n, k) : weights[g].get(k, n)));
    m *= std::abs(c.alpha);
    for (int64_t r = 0; r < c.r; ++r)
      m += std::abs(x2.get(t, r) * (nt ? weights2[g].get(n, r) : weights2[g].get(r, n)));
    if (c.bias) m += std::abs(bias.get(0, n));
    if (c.add) m += std::abs(c.add == 3 ? start.get(t, n) : add.get(t, n));
    return m;
  }
};

// want is the f64 reference's fp32 output. Rule: a chain of K + R fp32 additions errs by sum
// |terms| * 2^-24 times about the square root of its length for random terms, of which four times
// are allowed; operands cut into bf16 parts err by 2^-15 of their terms; then bf16 output by half a
// unit. Measured worst |difference| / bound of fp32 outputs: 0.20.
void compare(Problem& p, Matrix& got, Matrix& want, bool split, double* worst = nullptr) {
  const double chain = 4 * std::sqrt(static_cast<double>(p.c.k + p.c.r + 4)) * std::ldexp(1, -24) +
                       (split ? std::ldexp(1, -15) : 0);
  double ratio = 0;
  std::string where;
  for (int64_t t = 0; t < p.c.t; ++t) {
    for (int64_t n = 0; n < p.c.n; ++n) {
      const double a = got.get(t, n), b = want.get(t, n);
      double bound = p.magnitude(t, n) * chain + 1e-37;
      if (p.c.y == DType::bf16)
        bound += std::ldexp(1, std::ilogb(std::max(std::abs(a), std::abs(b)) + 1e-30) - 8);
      const double r = std::abs(a - b) / bound;
      if (!(r <= ratio)) {
        ratio = std::isnan(r) ? 1e9 : r;
        where = std::to_string(t) + "," + std::to_string(n) + " got " + std::to_string(a) +
                " want " + std::to_string(b);
      }
    }
  }
  EXPECT_LE(ratio, 1) << p.c.text() << " at " << where;
  if (p.c.y == DType::bf16) worst = nullptr;
  if (worst) *worst = std::max(*worst, ratio);
}

bool is_split(Isa isa, const Case& c) {
  return isa >= Isa::avx512bf16 && c.x == DType::bf16 && (c.r > 0 || c.w == DType::f32);
}

class GemmPaths : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(All, GemmPaths, testing::ValuesIn(cpu::available_isas()), isa_label);

// Those that pack: the reference and the scalar path have one loop for all.
class PackingGemmPaths : public GemmPaths {};

std::vector<Isa> packing_isas() {
  std::vector<Isa> isas = cpu::available_isas();
  std::erase_if(isas, [](Isa isa) { return isa <= Isa::scalar; });
  return isas;
}
INSTANTIATE_TEST_SUITE_P(All, PackingGemmPaths, testing::ValuesIn(packing_isas()), isa_label);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PackingGemmPaths);  // none: not on x86

std::vector<Case> dtype_cases(int64_t t, int64_t n, int64_t k) {
  std::vector<Case> all;
  for (GemmOp op : {GemmOp::nt, GemmOp::nn}) {
    const DType combos[][3] = {
        {DType::bf16, DType::bf16, DType::bf16}, {DType::bf16, DType::bf16, DType::f32},
        {DType::bf16, DType::f32, DType::bf16},  {DType::bf16, DType::f32, DType::f32},
        {DType::f32, DType::f32, DType::f32},    {DType::f32, DType::bf16, DType::f32},
        {DType::f32, DType::f16, DType::f32}};
    for (const auto& d : combos)
      all.push_back({.t = t, .n = n, .k = k, .op = op, .x = d[0], .w = d[1], .y = d[2]});
  }
  return all;
}

void check(Isa isa, const Case& c, uint32_t seed, int threads = 2, double* worst = nullptr) {
  Problem p(c, seed);
  Matrix got(c.t, c.n, c.y, c.gap), want(c.t, c.n, DType::f32);
  ASSERT_EQ(p.run_into(cpu::gemm(isa), threads, got).error, nullptr) << c.text();
  ASSERT_EQ(p.run_into(cpu::gemm(Isa::reference), 1, want).error, nullptr) << c.text();
  EXPECT_TRUE(got.guards_hold()) << c.text();
  // the same bits on one thread, whose scratch is also the tightest
  Matrix alone(c.t, c.n, c.y, c.gap);
  ASSERT_EQ(p.run_into(cpu::gemm(isa), 1, alone).error, nullptr) << c.text();
  for (int64_t i = 0; i < c.t; ++i) {
    ASSERT_EQ(std::memcmp(alone.at(i, 0), got.at(i, 0), static_cast<size_t>(c.n) * dtype_size(c.y)),
              0)
        << c.text();
  }
  compare(p, got, want, is_split(isa, c), worst);
}

TEST_P(GemmPaths, EveryDtypeMatchesReference) {
  const int64_t shapes[][3] = {{1, 1, 1},     {2, 3, 5},    {16, 16, 32}, {33, 65, 100},
                               {7, 130, 257}, {65, 31, 31}, {40, 96, 64}, {72, 100, 128}};
  double worst = 0;
  for (const auto& s : shapes) {
    for (const Case& c : dtype_cases(s[0], s[1], s[2])) check(GetParam(), c, 1, 2, &worst);
  }
  RecordProperty("worst_over_bound", std::to_string(worst));
}

TEST_P(GemmPaths, RandomShapesAndTerms) {
  std::mt19937 rng(7);
  const auto pick = [&](int n) { return static_cast<int>(rng() % static_cast<uint32_t>(n)); };
  for (int i = 0; i < 150; ++i) {
    const int64_t t = 1 + pick(i % 10 == 0 ? 300 : 40), n = 1 + pick(i % 7 == 0 ? 300 : 70),
                  k = 1 + pick(i % 5 == 0 ? 700 : 90);
    std::vector<Case> cases = dtype_cases(t, n, k);
    Case c = cases[static_cast<size_t>(pick(static_cast<int>(cases.size())))];
    if (pick(2)) c.r = 1 + pick(i % 3 == 0 ? 64 : 9);
    c.bias = pick(2);
    c.add = pick(4);
    c.alpha = pick(2) ? 1 : 0.37F;
    c.gap = pick(2) ? 1 + pick(9) : 0;
    check(GetParam(), c, 100 + static_cast<uint32_t>(i), 1 + i % 2);
  }
}

TEST_P(GemmPaths, DeepReduction) {
  // more steps than one block of the depth, in each direction
  for (GemmOp op : {GemmOp::nt, GemmOp::nn}) {
    check(GetParam(), {.t = 35, .n = 50, .k = 6000, .r = 8, .op = op, .alpha = 0.5F}, 3);
    check(
        GetParam(),
        {.t = 5, .n = 40, .k = 3001, .op = op, .x = DType::bf16, .w = DType::f32, .y = DType::f32},
        4);
    // and more than one block of low-rank words
    for (const DType type : {DType::bf16, DType::f32}) {
      check(GetParam(),
            {.t = 40,
             .n = 70,
             .k = 1300,
             .r = 600,
             .op = op,
             .x = type,
             .w = type,
             .y = type,
             .alpha = 0.5F},
            9);
    }
  }
}

TEST_P(GemmPaths, ManyColumns) {
  // several panels a thread, of two widths
  for (GemmOp op : {GemmOp::nt, GemmOp::nn}) {
    for (int64_t t : {5, 70}) check(GetParam(), {.t = t, .n = 1130, .k = 70, .r = 3, .op = op}, 8);
    // several blocks of the depth besides, in fp32 too
    if (GetParam() <= Isa::scalar) continue;
    check(GetParam(), {.t = 150, .n = 170, .k = 1300, .r = 8, .op = op, .alpha = 0.5F}, 16);
    check(GetParam(),
          {.t = 90,
           .n = 170,
           .k = 1300,
           .r = 8,
           .op = op,
           .x = DType::f32,
           .w = DType::f32,
           .y = DType::f32,
           .add = 2,
           .alpha = 0.5F},
          17);
  }
}

TEST_P(GemmPaths, Groups) {
  for (DType x : {DType::bf16, DType::f32}) {
    for (int64_t r : {0, 8}) {
      Case c{.t = 70,
             .n = 48,
             .k = 64,
             .r = r,
             .x = x,
             .w = x,
             .y = x,
             .bias = true,
             .gap = 3,
             .offsets = {0, 0, 1, 34, 34, 70, 70}};
      check(GetParam(), c, 5);
      c.op = GemmOp::nn;
      check(GetParam(), c, 6);
    }
  }
}

// A row computed with any number of others, on one thread or two, has the same bits.
TEST_P(GemmPaths, RowsAreExact) {
  const bool slow = GetParam() <= Isa::scalar;
  for (Case c : dtype_cases(slow ? 100 : 2200, 80, 200)) {
    c.r = 8;
    c.bias = true;
    c.add = 2;
    Problem p(c, 11);
    Matrix whole(c.t, c.n, c.y);
    ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), 2, whole).error, nullptr);
    for (int64_t t : {1, 3, 16, 17, 33, 100, 2200}) {
      if (t > c.t) continue;
      for (int threads : {1, 2}) {
        for (int64_t begin : {int64_t{0}, (c.t - t) / 2, c.t - t}) {
          Matrix part(c.t, c.n, c.y);
          ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), threads, part, begin, begin + t).error,
                    nullptr);
          for (int64_t i = begin; i < begin + t; ++i) {
            ASSERT_EQ(std::memcmp(part.at(i, 0), whole.at(i, 0),
                                  static_cast<size_t>(c.n) * dtype_size(c.y)),
                      0)
                << c.text() << " row " << i << " of " << t << " from " << begin << " threads "
                << threads;
          }
        }
      }
    }
  }
}

// The same where other numbers of rows are packed and cut in other ways: x or w packed, several
// strips, blocks of rows and of the depth, rows of x in few sets of L1, few columns, the narrow
// fp32 weights of LoRA.
TEST_P(PackingGemmPaths, RowsAreExactHoweverPacked) {
  struct Shape {
    int64_t n, k, r;
    DType x, w;
  };
  const Shape shapes[] = {
      {600, 1300, 8, DType::bf16, DType::bf16}, {600, 700, 8, DType::f32, DType::f32},
      {300, 40, 70, DType::bf16, DType::bf16},  {8, 1300, 0, DType::bf16, DType::f32},
      {300, 1024, 8, DType::f32, DType::f32},   {100, 1300, 0, DType::bf16, DType::bf16},
      {13, 300, 0, DType::bf16, DType::f32}};
  for (const Shape& s : shapes) {
    for (const GemmOp op : {GemmOp::nt, GemmOp::nn}) {
      const Case c{.t = 560,
                   .n = s.n,
                   .k = s.k,
                   .r = s.r,
                   .op = op,
                   .x = s.x,
                   .w = s.w,
                   .y = DType::f32,
                   .bias = true,
                   .alpha = 0.37F};
      Problem p(c, 15);
      Matrix whole(c.t, c.n, c.y);
      ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), 2, whole).error, nullptr);
      for (const int64_t t : {1, 2, 7, 31, 45, 290, 512}) {
        Matrix part(c.t, c.n, c.y);
        ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), 2, part, 40, 40 + t).error, nullptr);
        for (int64_t i = 40; i < 40 + t; ++i) {
          ASSERT_EQ(std::memcmp(part.at(i, 0), whole.at(i, 0), static_cast<size_t>(c.n) * 4), 0)
              << c.text() << " row " << i << " of " << t;
        }
      }
    }
  }
}

TEST_P(GemmPaths, RowsOfGroupsAreExact) {
  const Case grouped{.t = 90, .n = 72, .k = 150, .r = 4, .offsets = {0, 5, 60, 90}};
  Problem p(grouped, 12);
  Matrix whole(90, 72, DType::bf16);
  ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), 2, whole).error, nullptr);
  for (size_t g = 0; g < 3; ++g) {
    Problem alone(grouped, 12);
    alone.c.offsets.clear();
    alone.weights = {p.weights[g]};
    alone.weights2 = {p.weights2[g]};
    for (int64_t i = grouped.offsets[g]; i < grouped.offsets[g + 1]; ++i) {
      Matrix one(90, 72, DType::bf16);
      ASSERT_EQ(alone.run_into(cpu::gemm(GetParam()), 1, one, i, i + 1).error, nullptr);
      ASSERT_EQ(std::memcmp(one.at(i, 0), whole.at(i, 0), 144), 0) << "group " << g << " row " << i;
    }
  }
}

// An infinity or a NaN in one row of x stays in that row.
TEST_P(GemmPaths, NonFiniteRowsStayAlone) {
  for (Case c : dtype_cases(37, 40, 45)) {
    c.r = 5;
    Problem p(c, 13);
    Matrix clean(c.t, c.n, c.y), dirty(c.t, c.n, c.y);
    ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), 2, clean).error, nullptr);
    p.x.set(3, 7, std::numeric_limits<double>::quiet_NaN());
    p.x.set(20, 44, std::numeric_limits<double>::infinity());
    p.x2.set(31, 4, -std::numeric_limits<double>::infinity());
    ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), 2, dirty).error, nullptr);
    for (int64_t i = 0; i < c.t; ++i) {
      if (i == 3 || i == 20 || i == 31) {
        for (int64_t n = 0; n < c.n; ++n)
          EXPECT_FALSE(std::isfinite(dirty.get(i, n))) << c.text() << " row " << i;
      } else {
        EXPECT_EQ(
            std::memcmp(clean.at(i, 0), dirty.at(i, 0), static_cast<size_t>(c.n) * dtype_size(c.y)),
            0)
            << c.text();
      }
    }
  }
}

// A NaN in a weight reaches its own column (nt: row of W) only.
TEST_P(GemmPaths, NonFiniteWeightsStayInTheirColumn) {
  for (Case c : dtype_cases(5, 40, 45)) {
    Problem p(c, 14);
    const int64_t column = 17;
    if (c.op == GemmOp::nt) {
      p.weights[0].set(column, 44, std::numeric_limits<double>::quiet_NaN());
    } else {
      p.weights[0].set(44, column, std::numeric_limits<double>::quiet_NaN());
    }
    Matrix y(c.t, c.n, c.y);
    ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), 2, y).error, nullptr);
    for (int64_t t = 0; t < c.t; ++t) {
      for (int64_t n = 0; n < c.n; ++n) EXPECT_EQ(std::isnan(y.get(t, n)), n == column) << c.text();
    }
  }
}

TEST(GemmReference, F64IsExactWhereSumsAre) {
  // small integers: every order of summation is exact
  std::mt19937 rng(2);
  Matrix x(5, 9, DType::f64), w(7, 9, DType::f64), y(5, 7, DType::f64);
  for (Matrix* m : {&x, &w}) {
    for (int64_t i = 0; i < m->row_count(); ++i) {
      for (int64_t j = 0; j < m->col_count(); ++j)
        m->set(i, j, static_cast<double>(rng() % 19) - 9);
    }
  }
  const WeightView weight = w.weight();
  GemmDesc d;
  d.x = x.view();
  d.weights = &weight;
  d.y = y.view();
  ASSERT_EQ(run(cpu::gemm(Isa::reference), d, 1).error, nullptr);
  for (int64_t t = 0; t < 5; ++t) {
    for (int64_t n = 0; n < 7; ++n) {
      double want = 0;
      for (int64_t k = 0; k < 9; ++k) want += x.get(t, k) * w.get(n, k);
      EXPECT_EQ(y.get(t, n), want);
    }
  }
}

// No rows, and no depth: y is what else there is to add.
TEST_P(GemmPaths, NothingToMultiply) {
  for (int64_t t : {int64_t{0}, int64_t{5}, int64_t{40}}) {
    for (DType type : {DType::bf16, DType::f32}) {
      for (int64_t r : {int64_t{0}, int64_t{3}}) {
        const Case c{.t = 40,
                     .n = 40,
                     .k = t == 0 ? 4 : 0,
                     .r = r,
                     .x = type,
                     .w = type,
                     .y = type,
                     .bias = true,
                     .add = 2,
                     .alpha = 0.5F,
                     .gap = 4};
        Problem p(c, 31);
        Matrix got(40, 40, type), want(40, 40, DType::f32);
        ASSERT_EQ(p.run_into(cpu::gemm(GetParam()), 2, got, 0, t).error, nullptr);
        ASSERT_EQ(p.run_into(cpu::gemm(Isa::reference), 1, want, 0, t).error, nullptr);
        EXPECT_TRUE(got.guards_hold());
        p.c.t = t;
        compare(p, got, want, is_split(GetParam(), c));
      }
    }
  }
}

TEST_P(GemmPaths, RefusesWhatTheContractExcludes) {
  Problem p({.t = 3, .n = 4, .k = 5}, 1);
  Matrix y(3, 5, DType::bf16);  // one column too many for the weight
  const WeightView w = p.weights[0].weight();
  GemmDesc d;
  d.x = p.x.view();
  d.weights = &w;
  d.y = y.view();
  EXPECT_NE(run(cpu::gemm(GetParam()), d, 1).error, nullptr);
  d.y = p.start.view();
  EXPECT_EQ(run(cpu::gemm(GetParam()), d, 1).error, nullptr);
  d.x2 = p.x2.view();
  EXPECT_NE(run(cpu::gemm(GetParam()), d, 1).error, nullptr) << "x2 without weights2";
}

TEST_P(GemmPaths, CostCountsEveryTerm) {
  Problem p({.t = 3, .n = 4, .k = 5, .r = 2}, 1);
  const WeightView w = p.weights[0].weight(), w2 = p.weights2[0].weight();
  GemmDesc d;
  d.x = p.x.view();
  d.weights = &w;
  d.y = p.start.view();
  d.x2 = p.x2.view();
  d.weights2 = &w2;
  const Cost cost = cpu::gemm(GetParam()).cost(d);
  EXPECT_EQ(cost.flops, 2 * 3 * 4 * (5 + 2));
  EXPECT_EQ(cost.bytes, 2 * (3 * 5 + 4 * 5 + 3 * 4) + 4 * (3 * 2 + 4 * 2));
}

}  // namespace
}  // namespace hone
