// RMSNorm on every path: accuracy, adjoint, exact rows, threads, strided views. Legend: T rows, H
// heads, D features.
#include "backend/desc/norm.h"
#include "support/kernel_harness.h"

namespace hone::test {
namespace {

using cpu::Isa;

Op norm_op(std::vector<int64_t> shape, bool in_place = false) {
  const int64_t d = shape.back();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  std::vector<int64_t> saved(shape.begin(), shape.end() - 1);
  Op op;
  op.in = {{Kind::data, shape, numbers(1, rows * d, 3)},
           {Kind::data, {d}, numbers(2, d, 2), false}};
  op.out = {{Kind::data, shape, in_place ? numbers(1, rows * d, 3) : std::vector<double>{}},
            {Kind::stat, saved, {}}};
  op.run = [in_place](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    const RmsNormDesc d{.x = in_place ? out[0].view() : in[0].view(),
                        .weight = in[1].view(),
                        .y = out[0].view(),
                        .saved = out[1].view(),
                        .eps = 1e-6};
    return run_kernel(cpu::rms_norm(isa), d, threads);
  };
  return op;
}

// rstd comes from the reference, so that the backward pass is tested alone.
std::vector<double> rstd_of(const std::vector<double>& x, int64_t d) {
  std::vector<double> out;
  for (size_t r = 0; r < x.size() / static_cast<size_t>(d); ++r) {
    double sum = 0;
    for (int64_t i = 0; i < d; ++i) {
      const double v = x[r * static_cast<size_t>(d) + static_cast<size_t>(i)];
      sum += v * v;
    }
    out.push_back(1 / std::sqrt(sum / static_cast<double>(d) + 1e-6));
  }
  return out;
}

Op backward_op(std::vector<int64_t> shape, bool accumulate, bool dweight) {
  const int64_t d = shape.back();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  const auto x = numbers(1, rows * d, 3);
  std::vector<int64_t> saved(shape.begin(), shape.end() - 1);
  Op op;
  op.in = {{Kind::data, shape, x},
           {Kind::data, {d}, numbers(2, d, 2), false},
           {Kind::stat, saved, rstd_of(x, d)},
           {Kind::data, shape, numbers(3, rows * d)}};
  op.out = {{Kind::data, shape, accumulate ? numbers(4, rows * d) : std::vector<double>{}}};
  if (dweight) op.out.push_back({Kind::stat, {d}, numbers(5, d), false});
  op.run = [=](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    RmsNormBackwardDesc b{.x = in[0].view(),
                          .weight = in[1].view(),
                          .saved = in[2].view(),
                          .dy = in[3].view(),
                          .dx = out[0].view(),
                          .accumulate = accumulate};
    if (dweight) b.dweight = out[1].view();
    return run_kernel(cpu::rms_norm_backward(isa), b, threads);
  };
  return op;
}

// Sizes around every vector width; measured: scalar fp32 within 4 units of 2^-24, bf16 within one
// rounding.
TEST(RmsNorm, Accuracy) {
  for (const int64_t d : {1, 7, 16, 33, 64, 100, 896}) check_accuracy(norm_op({5, d}), 16);
  check_accuracy(norm_op({3, 4, 64}), 16);
  check_accuracy(norm_op({5, 50}, true), 16);
}

TEST(RmsNorm, RowsAreExact) {
  check_rows(norm_op({100, 896}));
  check_rows(norm_op({100, 45}));
  check_rows(norm_op({100, 2, 64}));
}

TEST(RmsNorm, KnownValue) {
  Op op = norm_op({1, 2});
  op.in[0].values = {3, 4};
  op.in[1].values = {1, 2};
  const double rstd = 1 / std::sqrt(12.5 + 1e-6);
  const auto out = execute(op, {});
  EXPECT_DOUBLE_EQ(out[0].get(0), 3 * rstd);
  EXPECT_DOUBLE_EQ(out[0].get(1), 8 * rstd);
  EXPECT_DOUBLE_EQ(out[1].get(0), rstd);
}

TEST(RmsNorm, NanStays) {
  for (Isa isa : cpu::available_isas()) {
    Op op = norm_op({2, 40});
    op.in[0].values[3] = std::nan("");
    const auto out = execute(op, {.isa = isa, .dtype = DType::bf16});
    for (int64_t i = 0; i < 40; ++i) {
      EXPECT_TRUE(std::isnan(out[0].get(i)));
      EXPECT_FALSE(std::isnan(out[0].get(40 + i)));
    }
  }
}

// Sums of up to 896 features and 200 rows in fp32, whose rounding errors add up like a random walk.
// Measured: fp32 7 units of 2^-24.
TEST(RmsNormBackward, Accuracy) {
  // Not d = 1: there the gradient is all cancellation.
  for (const int64_t d : {7, 33, 64, 100, 896}) {
    check_accuracy(backward_op({9, d}, false, false), 16);
    check_accuracy(backward_op({9, d}, true, true), 16);
  }
  check_accuracy(backward_op({200, 40}, false, true), 16);
  check_accuracy(backward_op({20, 4, 64}, false, true), 16);
}

TEST(RmsNormBackward, RowsAreExactAndThreadsDoNotMatter) {
  check_rows(backward_op({100, 96}, true, false));
  check_threads(backward_op({300, 96}, true, true));
  check_threads(backward_op({5000, 16}, false, true));
}

TEST(RmsNormBackward, AgreesWithFiniteDifferences) {
  const int64_t t = 3, d = 20;
  const auto x = numbers(1, t * d, 3), w = numbers(2, d, 2), dy = numbers(3, t * d);
  const auto loss = [&](const std::vector<double>& xv, const std::vector<double>& wv) {
    Op op = norm_op({t, d});
    op.in[0].values = xv;
    op.in[1].values = wv;
    const auto out = execute(op, {});
    double sum = 0;
    for (int64_t i = 0; i < t * d; ++i) sum += dy[static_cast<size_t>(i)] * out[0].get(i);
    return sum;
  };
  Op back = backward_op({t, d}, false, true);
  back.out[1].values.assign(static_cast<size_t>(d), 0);
  const auto grad = execute(back, {});
  // Central differences at h = 1e-5 are good to about h^2 plus 1e-16 / h: 1e-8 has room. Measured
  // 2e-10.
  check_gradient([&](const auto& v) { return loss(v, w); }, x, grad[0], 1e-8);
  check_gradient([&](const auto& v) { return loss(x, v); }, w, grad[1], 1e-8);
}

TEST(RmsNormBackward, DxMayBeDy) {
  for (Isa isa : cpu::available_isas()) {
    const Op op = backward_op({4, 50}, false, false);
    const auto apart = execute(op, {.isa = isa, .dtype = DType::bf16});
    Op same = op;
    same.out[0].values = op.in[3].values;
    same.run = [](Isa path, std::vector<Array>& in, std::vector<Array>& out, int threads) {
      const RmsNormBackwardDesc b{.x = in[0].view(),
                                  .weight = in[1].view(),
                                  .saved = in[2].view(),
                                  .dy = out[0].view(),
                                  .dx = out[0].view()};
      return run_kernel(cpu::rms_norm_backward(path), b, threads);
    };
    EXPECT_EQ(apart[0].packed(), execute(same, {.isa = isa, .dtype = DType::bf16})[0].packed());
  }
}

TEST(RmsNorm, RefusesWhatDoesNotFit) {
  Array x(DType::f32, {2, 4}), y(DType::f32, {2, 5}), w(DType::f32, {4}), x64(DType::f64, {2, 4});
  const auto kernel = cpu::rms_norm(Isa::scalar);
  EXPECT_FALSE(run_kernel(kernel, {.x = x.view(), .weight = w.view(), .y = y.view()}).ok());
  EXPECT_FALSE(run_kernel(kernel, {.x = x64.view(), .weight = w.view(), .y = x64.view()}).ok());
}

}  // namespace
}  // namespace hone::test
