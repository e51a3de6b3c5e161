// AdamW, the sum of squares and zeroing of lists of arrays, on every path.
#include <deque>

#include "backend/desc/optim.h"
#include "support/kernel_harness.h"

namespace hone::test {
namespace {

using cpu::Isa;

FloatArray float_array(Array& a) { return {a.view().as<float>(), a.numel()}; }
ByteArray byte_array(Array& a) {
  return {a.view().data, a.numel() * static_cast<int64_t>(dtype_size(a.view().dtype))};
}
AdamWArrays adamw_arrays(Array& p, Array& g, Array& m, Array& v, Array* w, double decay = 0) {
  return {.param = p.view().as<float>(),
          .grad = g.view().as<float>(),
          .exp_avg = m.view().as<float>(),
          .exp_avg_sq = v.view().as<float>(),
          .weight = w == nullptr ? nullptr : w->view().data,
          .weight_dtype = w == nullptr ? DType::bf16 : w->view().dtype,
          .n = p.numel(),
          .weight_decay = decay};
}

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
          const AdamWArrays arrays = adamw_arrays(p, g, m, v, &w, adam.decay);
          const AdamWDesc d{.list = {&arrays, 1},
                            .lr = adam.lr,
                            .beta1 = adam.beta1,
                            .beta2 = adam.beta2,
                            .eps = adam.eps,
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
    const AdamWArrays arrays = adamw_arrays(p, g, m, v, &w);
    const AdamWDesc d{.list = {&arrays, 1}, .lr = 1e-3};
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
    const AdamWArrays arrays = adamw_arrays(p, g, m, v, nullptr, 0.1);
    AdamWDesc d{.list = {&arrays, 1}};
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
      const FloatArray array = float_array(x);
      const SumSquaresDesc d{{&array, 1}, out.view()};
      double expected = 3;
      for (int64_t i = 0; i < n; ++i) expected += x.get(i) * x.get(i);
      double first = 0;
      for (const int threads : {1, 2}) {
        out.set(0, 3);
        ASSERT_TRUE(run_kernel(cpu::sum_squares(isa), d, threads).ok());
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
        ASSERT_TRUE(run_kernel(cpu::sum_squares(isa), d, 2).ok());
        EXPECT_FALSE(std::isfinite(out.get(0)));
      }
    }
  }
}

TEST(Zero, TouchesOnlyItsBytes) {
  for (Isa isa : cpu::available_isas()) {
    Array x(DType::bf16, {40001}), y(DType::f32, {3});
    for (Array* a : {&x, &y}) a->set_all(std::vector<double>(40001, 1.5));
    const ByteArray list[] = {byte_array(x), {}, byte_array(y)};
    ASSERT_TRUE(run_kernel(cpu::zero(isa), ZeroDesc{list}, 2).ok());
    for (Array* a : {&x, &y}) {
      EXPECT_TRUE(a->guards_intact());
      for (int64_t i = 0; i < a->numel(); ++i) ASSERT_EQ(a->get(i), 0);
    }
  }
}

// Sizes around a chunk of each kernel, and none.
constexpr int64_t kSizes[] = {1, 16384, 0, 7, 65536, 65537, 16385, 0, 150000, 33};

// A list gives each of its arrays the bits that it has on its own: chunks, moments, decay and
// rounded weights are its own.
TEST(Lists, AdamWAsOneByOne) {
  struct State {
    Array p, g, m, v, w;
    State(int64_t n, DType copy)
        : p(DType::f32, {n}),
          g(DType::f32, {n}),
          m(DType::f32, {n}),
          v(DType::f32, {n}),
          w(copy, {n}) {
      const auto seed = static_cast<uint64_t>(n);
      p.set_all(numbers(seed, n));
      g.set_all(numbers(seed + 1, n));
      m.set_all(numbers(seed + 2, n));
      v.set_all(std::vector<double>(static_cast<size_t>(n), 0.25));
    }
  };
  for (Isa isa : cpu::available_isas()) {
    std::deque<State> alone, together;
    std::vector<AdamWArrays> list;
    for (const int64_t n : kSizes) {
      const DType copy = n % 2 == 0 ? DType::bf16 : DType::f32;
      const double decay = 0.01 * static_cast<double>(list.size());
      for (auto* all : {&alone, &together}) all->emplace_back(n, copy);
      for (auto* all : {&alone, &together}) {
        State& s = all->back();
        const AdamWArrays a = adamw_arrays(s.p, s.g, s.m, s.v, n == 33 ? nullptr : &s.w, decay);
        if (all == &together) {
          list.push_back(a);
        } else {
          ASSERT_TRUE(run_kernel(cpu::adamw(isa), AdamWDesc{.list = {&a, 1}, .lr = 0.1}).ok());
        }
      }
    }
    ASSERT_TRUE(run_kernel(cpu::adamw(isa), AdamWDesc{.list = list, .lr = 0.1}, 2).ok());
    for (size_t i = 0; i < alone.size(); ++i) {
      State &a = alone[i], &t = together[i];
      EXPECT_EQ(a.p.packed(), t.p.packed()) << i;
      EXPECT_EQ(a.m.packed(), t.m.packed()) << i;
      EXPECT_EQ(a.v.packed(), t.v.packed()) << i;
      EXPECT_EQ(a.w.packed(), t.w.packed()) << i;
      for (const Array* x : {&t.p, &t.g, &t.m, &t.v, &t.w}) EXPECT_TRUE(x->guards_intact());
    }
  }
}

TEST(Lists, SumsAreAddedInListOrder) {
  for (Isa isa : cpu::available_isas()) {
    std::deque<Array> arrays;
    std::vector<FloatArray> list;
    Array one_by_one(DType::f64, {1}), together(DType::f64, {1});
    for (Array* out : {&one_by_one, &together}) out->set(0, 3);
    for (const int64_t n : kSizes) {
      arrays.emplace_back(DType::f32, std::vector<int64_t>{n});
      arrays.back().set_all(numbers(static_cast<uint64_t>(n), n, 1e3));
      list.push_back(float_array(arrays.back()));
      const SumSquaresDesc d{{&list.back(), 1}, one_by_one.view()};
      ASSERT_TRUE(run_kernel(cpu::sum_squares(isa), d).ok());
    }
    ASSERT_TRUE(run_kernel(cpu::sum_squares(isa), SumSquaresDesc{list, together.view()}, 2).ok());
    EXPECT_EQ(one_by_one.get(0), together.get(0)) << cpu::isa_name(isa);
  }
}

}  // namespace
}  // namespace hone::test
