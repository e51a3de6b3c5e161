// AdamW and the sum of squares on every path.
#include "support/kernel_harness.h"

namespace hone::test {
namespace {

using cpu::Isa;

// torch.optim.AdamW in fp64, element by element.
struct Adam {
  double lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1, scale = 0.5;
  void step(double& p, double& m, double& v, double g, int t) const {
    g *= scale;
    p *= 1 - lr * decay;
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    const double denominator = std::sqrt(v) / std::sqrt(1 - std::pow(beta2, t)) + eps;
    p -= lr / (1 - std::pow(beta1, t)) * m / denominator;
  }
};

TEST(AdamW, FollowsTorchOverSteps) {
  const int64_t n = 40007;
  const Adam adam;
  for (Isa isa : cpu::available_isas()) {
    for (const DType copy : {DType::bf16, DType::f32}) {
      std::vector<unsigned char> bits[2];
      for (const int threads : {1, 2}) {
        Array p(DType::f32, {n}), g(DType::f32, {n}), m(DType::f32, {n}), v(DType::f32, {n});
        Array w(copy, {n});
        const auto start = numbers(1, n);
        p.set_all(start);
        m.set_all(std::vector<double>(n, 0));
        v.set_all(std::vector<double>(n, 0));
        std::vector<double> tp, tm(n, 0), tv(n, 0);
        for (int64_t i = 0; i < n; ++i) tp.push_back(p.get(i));
        for (int t = 1; t <= 3; ++t) {
          g.set_all(numbers(static_cast<uint64_t>(10 + t), n, std::pow(10, t - 3)));
          const AdamWDesc d{.param = p.view(),
                            .grad = g.view(),
                            .exp_avg = m.view(),
                            .exp_avg_sq = v.view(),
                            .weight = w.view(),
                            .lr = adam.lr,
                            .beta1 = adam.beta1,
                            .beta2 = adam.beta2,
                            .eps = adam.eps,
                            .weight_decay = adam.decay,
                            .grad_scale = adam.scale,
                            .step = t};
          ASSERT_TRUE(run_kernel(cpu::adamw(isa), d, threads).ok());
          for (int64_t i = 0; i < n; ++i) {
            const size_t j = static_cast<size_t>(i);
            adam.step(tp[j], tm[j], tv[j], g.get(i), t);
          }
        }
        for (const Array* a : {&p, &g, &m, &v, &w}) EXPECT_TRUE(a->guards_intact());
        for (int64_t i = 0; i < n; ++i) {
          const size_t j = static_cast<size_t>(i);
          // Three steps of about five fp32 roundings each of numbers up to 1. Measured 3.4 units.
          EXPECT_NEAR(p.get(i), tp[j], 15 * 0x1p-24);
          EXPECT_NEAR(m.get(i), tm[j], 10 * 0x1p-24);
          EXPECT_NEAR(v.get(i), tv[j], 10 * 0x1p-24);
          EXPECT_EQ(w.get(i), round_to(copy, p.get(i)));
        }
        bits[threads - 1] = p.packed();
      }
      EXPECT_EQ(bits[0], bits[1]);
    }
  }
}

TEST(AdamW, NanPropagatesAndStaysWhereItIs) {
  const int64_t n = 100;
  for (Isa isa : cpu::available_isas()) {
    Array p(DType::f32, {n}), g(DType::f32, {n}), m(DType::f32, {n}), v(DType::f32, {n});
    Array w(DType::bf16, {n});
    p.set_all(numbers(1, n));
    g.set_all(numbers(2, n));
    m.set_all(std::vector<double>(n, 0));
    v.set_all(std::vector<double>(n, 0));
    g.set(17, std::nan(""));
    g.set(99, std::nan(""));
    const AdamWDesc d{.param = p.view(),
                      .grad = g.view(),
                      .exp_avg = m.view(),
                      .exp_avg_sq = v.view(),
                      .weight = w.view(),
                      .lr = 1e-3};
    ASSERT_TRUE(run_kernel(cpu::adamw(isa), d).ok());
    for (int64_t i = 0; i < n; ++i) {
      const bool expected = i == 17 || i == 99;
      EXPECT_EQ(std::isnan(p.get(i)), expected) << i;
      EXPECT_EQ(std::isnan(w.get(i)), expected) << i;
    }
  }
}

TEST(AdamW, ZeroRateChangesNothingAndStepsCountFromOne) {
  Array p(DType::f32, {50}), g(DType::f32, {50}), m(DType::f32, {50}), v(DType::f32, {50});
  for (Isa isa : cpu::available_isas()) {
    for (Array* a : {&p, &g, &m, &v}) a->set_all(numbers(3, 50, 0.5));
    v.set_all(std::vector<double>(50, 0.25));
    const auto before = p.packed();
    AdamWDesc d{.param = p.view(),
                .grad = g.view(),
                .exp_avg = m.view(),
                .exp_avg_sq = v.view(),
                .weight_decay = 0.1};
    ASSERT_TRUE(run_kernel(cpu::adamw(isa), d).ok());
    EXPECT_EQ(before, p.packed());
    d.step = 0;
    EXPECT_FALSE(run_kernel(cpu::adamw(isa), d).ok());
  }
}

TEST(SumSquares, Fp64InChunks) {
  for (const int64_t n : {1, 31, 1000, 200003}) {
    for (Isa isa : cpu::available_isas()) {
      Array x(DType::f32, {n}), out(DType::f64, {1});
      x.set_all(numbers(4, n, 1e20));  // squares overflow fp32
      double expected = 3;
      for (int64_t i = 0; i < n; ++i) expected += x.get(i) * x.get(i);
      double first = 0;
      for (const int threads : {1, 2}) {
        out.set(0, 3);
        ASSERT_TRUE(
            run_kernel(cpu::sum_squares(isa), SumSquaresDesc{x.view(), out.view()}, threads).ok());
        // fp64 sums of positive numbers: relative error below n 2^-53.
        EXPECT_NEAR(out.get(0) / expected, 1, static_cast<double>(n) * 0x1p-53 + 1e-15);
        if (threads == 2) {
          EXPECT_EQ(out.get(0), first);
        }
        first = out.get(0);
      }
      for (const double bad : {std::nan(""), HUGE_VAL}) {
        x.set(n - 1, bad);
        out.set(0, 0);
        ASSERT_TRUE(
            run_kernel(cpu::sum_squares(isa), SumSquaresDesc{x.view(), out.view()}, 2).ok());
        EXPECT_FALSE(std::isfinite(out.get(0)));
      }
    }
  }
}

}  // namespace
}  // namespace hone::test
