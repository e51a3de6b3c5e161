// gemm and gemm_dw of every path this machine has against the f64 reference, and their promise of
// exact rows.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"

namespace hone {
namespace {

using cpu::Isa;

std::string isa_label(const testing::TestParamInfo<Isa>& info) {
  return std::string(cpu::isa_name(info.param));
}

// A matrix with rows further apart than wide, starting at an odd address for its type, between
// guard bytes.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, DType type, int64_t gap = 0)
      : rows_(rows), cols_(cols), stride_(cols + gap), type_(type) {
    bytes_.assign(static_cast<size_t>(rows * stride_) * dtype_size(type) + 2 * kGuard + 64, kFill);
    offset_ = kGuard + dtype_size(type);
  }
  void randomise(std::mt19937& rng, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < cols_; ++j) set(i, j, normal(rng));
    }
  }
  void set(int64_t i, int64_t j, double v) {
    char* p = at(i, j);
    if (type_ == DType::f32) {
      const float f = static_cast<float>(v);
      std::memcpy(p, &f, 4);
    } else if (type_ == DType::bf16) {
      const bf16 h(static_cast<float>(v));
      std::memcpy(p, &h, 2);
    } else if (type_ == DType::f16) {
      const _Float16 h = static_cast<_Float16>(v);
      std::memcpy(p, &h, 2);
    } else {
      std::memcpy(p, &v, 8);
    }
  }
  double get(int64_t i, int64_t j) const {
    const char* p = const_cast<Matrix*>(this)->at(i, j);
    if (type_ == DType::f32) {
      float f;
      std::memcpy(&f, p, 4);
      return f;
    }
    if (type_ == DType::f64) {
      double f;
      std::memcpy(&f, p, 8);
      return f;
    }
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    if (type_ == DType::bf16) return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    f16 h;
    h.bits = bits;
    return static_cast<float>(h);
  }
  char* at(int64_t i, int64_t j) {
    return bytes_.data() + offset_ + static_cast<size_t>(i * stride_ + j) * dtype_size(type_);
  }
  View view() { return rows(0, rows_); }
  View rows(int64_t begin, int64_t end) {
    View v;
    v.data = at(begin, 0);
    v.dtype = type_;
    v.rank = 2;
    v.shape[0] = end - begin;
    v.shape[1] = cols_;
    v.stride[0] = stride_;
    v.stride[1] = 1;
    return v;
  }
  View vector() {
    View v = view();
    v.rank = 1;
    v.shape[0] = cols_;
    v.stride[0] = 1;
    return v;
  }
  WeightView weight() {
    WeightView w;
    w.data = at(0, 0);
    w.rows = rows_;
    w.cols = cols_;
    w.stride_bytes = stride_ * static_cast<int64_t>(dtype_size(type_));
    w.format = type_ == DType::f32    ? Format::f32
               : type_ == DType::bf16 ? Format::bf16
               : type_ == DType::f16  ? Format::f16
                                      : Format::f64;
    return w;
  }
  // Nothing but the elements was written.
  bool guards_hold() {
    std::vector<char> copy = bytes_;
    const size_t size = dtype_size(type_);
    for (int64_t i = 0; i < rows_; ++i) {
      std::memset(copy.data() + offset_ + static_cast<size_t>(i * stride_) * size, kFill,
                  static_cast<size_t>(cols_) * size);
    }
    return std::all_of(copy.begin(), copy.end(), [](char c) { return c == kFill; });
  }
  Matrix as(DType type) const {
    Matrix m(rows_, cols_, type);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < cols_; ++j) m.set(i, j, get(i, j));
    }
    return m;
  }
  int64_t row_count() const { return rows_; }
  int64_t col_count() const { return cols_; }
  DType type() const { return type_; }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr char kFill = 0x5a;
  int64_t rows_, cols_, stride_;
  DType type_;
  size_t offset_;
  std::vector<char> bytes_;
};

template <class Desc>
Status run(const Kernel<Desc>& kernel, const Desc& desc, int threads) {
  ThreadPool pool(threads);
  const DeviceProps props = cpu::device_props(threads);
  const size_t bytes = kernel.scratch_bytes ? kernel.scratch_bytes(props, desc) : 0;
  constexpr size_t kGuard = 4096;
  std::vector<char> memory(bytes + 64 + kGuard, 0x5a);
  char* scratch = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  // whatever lies there: quiet NaN as fp32 and as bf16
  for (size_t i = 0; i < bytes; ++i) scratch[i] = static_cast<char>(i % 2 ? 0x7f : 0xff);
  const Status status = kernel.run(
      {.pool = &pool, .scratch = scratch, .scratch_bytes = bytes, .props = &props}, desc);
  for (char* p = scratch + bytes; p < memory.data() + memory.size(); ++p) {
    EXPECT_EQ(*p, 0x5a) << "wrote behind its scratch";
    if (*p != 0x5a) break;
  }
  return status;
}

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
// strips and blocks of the depth, the narrow fp32 weights of LoRA.
TEST_P(GemmPaths, RowsAreExactHoweverPacked) {
  if (GetParam() <= Isa::scalar) GTEST_SKIP() << "one loop for all";
  struct Shape {
    int64_t n, k, r;
    DType x, w;
  };
  const Shape shapes[] = {{600, 1300, 8, DType::bf16, DType::bf16},
                          {600, 700, 8, DType::f32, DType::f32},
                          {300, 40, 70, DType::bf16, DType::bf16},
                          {8, 1300, 0, DType::bf16, DType::f32},
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
      for (const int64_t t : {1, 31, 45, 290, 512}) {
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

TEST_P(GemmPaths, WeightGradients) {
  const int64_t shapes[][3] = {{1, 1, 1},      {3, 5, 2},     {33, 40, 70},
                               {100, 8, 130},  {129, 130, 8}, {400, 70, 40},
                               {300, 8, 1100}, {90, 33, 200}, {90, 200, 33}};
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
