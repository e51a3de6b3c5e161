// Grouped products: a group's rows have the bits of a call of their own, however many groups there
// are and however uneven they are.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "backend/desc/gemm.h"
#include "support/gemm_matrix.h"

namespace hone {
namespace {

using cpu::Isa;
using test::isa_label;
using test::Matrix;
using test::run;

class GroupsPath : public testing::TestWithParam<Isa> {};

struct Groups {
  const char* name;
  std::vector<int32_t> offsets;
  int count() const { return static_cast<int>(offsets.size()) - 1; }
  int32_t rows() const { return offsets.back(); }
};

std::vector<Groups> all_groups() {
  Groups even = {"64 of 24 rows", {0}}, uneven = {"none, one, few, many", {3}},
         ones = {"ones", {0}};
  for (int g = 0; g < 64; ++g) even.offsets.push_back(even.rows() + 24);
  // more groups than are run together; long ones are several chunks
  for (int g = 0; g < 150; ++g)
    uneven.offsets.push_back(uneven.rows() + (g % 3 == 0   ? 0
                                              : g == 70    ? 1500
                                              : g % 7 == 1 ? 1
                                                           : g % 40));
  for (int g = 0; g < 70; ++g) ones.offsets.push_back(ones.rows() + 1);
  return {even, uneven, ones};
}

bool same_rows(Matrix& a, Matrix& b, int64_t begin, int64_t end) {
  const size_t row = static_cast<size_t>(a.col_count()) * dtype_size(a.type());
  for (int64_t i = begin; i < end; ++i) {
    if (std::memcmp(a.at(i, 0), b.at(i, 0), row) != 0) return false;
  }
  return true;
}

TEST_P(GroupsPath, RowsHaveTheBitsOfAGroupAlone) {
  const KernelTable table = cpu::kernel_table(GetParam());
  struct Shape {
    int64_t n, k, r;
    DType x, w;
  };
  for (const Groups& groups : all_groups()) {
    const int64_t t = groups.rows() + 2;  // and rows of no group
    for (const Shape s : {Shape{72, 96, 0, DType::bf16, DType::bf16},
                          {72, 96, 8, DType::bf16, DType::bf16},
                          {8, 96, 0, DType::bf16, DType::f32},
                          {40, 65, 3, DType::f32, DType::f32}}) {
      for (const GemmOp op : {GemmOp::nt, GemmOp::nn}) {
        std::mt19937 rng(1);
        const DType y_type = s.w == DType::f32 ? DType::f32 : DType::bf16;
        Matrix x(t, s.k, s.x), x2(t, 8, DType::f32), y(t, s.n, y_type, 1), alone(t, s.n, y_type, 1);
        x.randomise(rng);
        x2.randomise(rng);
        std::vector<Matrix> w, w2;
        std::vector<WeightView> views, views2;
        for (int g = 0; g < groups.count(); ++g) {
          const bool nt = op == GemmOp::nt;
          w.emplace_back(nt ? s.n : s.k, nt ? s.k : s.n, s.w);
          w2.emplace_back(nt ? s.n : s.r, nt ? s.r : s.n, DType::f32);
          w.back().randomise(rng, 0.1f);
          w2.back().randomise(rng, 0.1f);
        }
        for (Matrix& m : w) views.push_back(m.weight());
        for (Matrix& m : w2) views2.push_back(m.weight());
        const auto product = [&](Matrix& to, int64_t begin, int64_t end, int first, int count,
                                 const int32_t* offsets) {
          GemmDesc d;
          d.op = op;
          d.x = x.rows(begin, end);
          d.y = to.rows(begin, end);
          d.weights = &views[static_cast<size_t>(first)];
          d.groups = count;
          d.row_offsets = offsets;
          if (s.r > 0) {
            View second = x2.rows(begin, end);
            second.shape[1] = s.r;
            d.x2 = second;
            d.weights2 = &views2[static_cast<size_t>(first)];
            d.alpha = 0.75f;
          }
          const Status status = run(table.gemm, d, 2);
          EXPECT_TRUE(status.ok()) << status.error;
        };
        product(y, 0, t, 0, groups.count(), groups.offsets.data());
        EXPECT_TRUE(y.guards_hold());
        for (int g = 0; g < groups.count(); ++g) {
          const int64_t begin = groups.offsets[static_cast<size_t>(g)],
                        end = groups.offsets[static_cast<size_t>(g) + 1];
          if (begin == end) continue;
          product(alone, begin, end, g, 1, nullptr);
          ASSERT_TRUE(same_rows(y, alone, begin, end))
              << groups.name << " group " << g << (op == GemmOp::nt ? " nt" : " nn") << " N "
              << s.n;
        }
        // rows of no group stay as they were
        Matrix untouched(t, s.n, y_type, 1);
        EXPECT_TRUE(same_rows(y, untouched, 0, groups.offsets[0]));
        EXPECT_TRUE(same_rows(y, untouched, t - 2, t));
      }
    }
  }
}

// Wide on both sides, narrow on one (LoRA's two), of mixed types.
TEST_P(GroupsPath, WeightGradientsHaveTheBitsOfAGroupAlone) {
  const KernelTable table = cpu::kernel_table(GetParam());
  struct Shape {
    int64_t n, k;
    DType dy, x;
  };
  for (const Groups& groups : all_groups()) {
    const int64_t t = groups.rows();
    for (const Shape s : {Shape{72, 96, DType::bf16, DType::bf16},
                          {8, 96, DType::f32, DType::bf16},
                          {96, 8, DType::bf16, DType::f32}}) {
      std::mt19937 rng(2);
      Matrix dy(t, s.n, s.dy), x(t, s.k, s.x);
      dy.randomise(rng);
      x.randomise(rng);
      std::vector<Matrix> got(static_cast<size_t>(groups.count()), Matrix(s.n, s.k, DType::f32));
      std::vector<View> views;
      for (Matrix& m : got) {
        m.randomise(rng);
        views.push_back(m.view());
      }
      std::vector<Matrix> want = got;
      GemmDwDesc d;
      d.dy = dy.view();
      d.x = x.view();
      d.dw = views.data();
      d.groups = groups.count();
      d.row_offsets = groups.offsets.data();
      Status status = run(table.gemm_dw, d, 2);
      EXPECT_TRUE(status.ok()) << status.error;
      for (int g = 0; g < groups.count(); ++g) {
        const int64_t begin = groups.offsets[static_cast<size_t>(g)],
                      end = groups.offsets[static_cast<size_t>(g) + 1];
        Matrix& alone = want[static_cast<size_t>(g)];
        if (begin < end) {
          const View one = alone.view();
          GemmDwDesc single;
          single.dy = dy.rows(begin, end);
          single.x = x.rows(begin, end);
          single.dw = &one;
          status = run(table.gemm_dw, single, 2);
          EXPECT_TRUE(status.ok()) << status.error;
        }
        ASSERT_TRUE(same_rows(got[static_cast<size_t>(g)], alone, 0, s.n))
            << groups.name << " group " << g << " of " << s.n << " x " << s.k;
        EXPECT_TRUE(got[static_cast<size_t>(g)].guards_hold());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, GroupsPath, testing::ValuesIn(cpu::available_isas()), isa_label);

}  // namespace
}  // namespace hone
