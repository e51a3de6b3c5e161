// Routing on every path: what is chosen, weights, adjoints; rows to experts and back. Legend: T
// rows, E experts, K experts a row, D features.
#include "backend/desc/route.h"
#include "support/kernel_harness.h"

namespace hone::test {
namespace {

using cpu::Isa;
using Scores = RouteRule::Scores;

struct Route {
  std::vector<int32_t> experts;
  std::vector<double> weights, score_sum;
};

Route route(const std::vector<double>& logits, int64_t experts, int64_t k, const RouteRule& rule,
            const std::vector<double>& correction = {}, Isa isa = Isa::reference,
            DType dtype = DType::f64, int threads = 1) {
  const int64_t rows = static_cast<int64_t>(logits.size()) / experts;
  const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
  Array x(dtype, {rows, experts}, 2), chosen(DType::i32, {rows, k}), weights(wide, {rows, k}, 1),
      sum(wide, {experts}), bias(wide, {experts});
  x.set_all(logits);
  RouteDesc d{.logits = x.view(),
              .experts = chosen.view(),
              .weights = weights.view(),
              .score_sum = sum.view(),
              .rule = rule};
  if (!correction.empty()) {
    bias.set_all(correction);
    d.correction = bias.view();
  }
  const Status status = run_kernel(cpu::route(isa), d, threads);
  EXPECT_TRUE(status.ok()) << status.error;
  Route out;
  for (int64_t i = 0; i < rows * k; ++i) {
    out.experts.push_back(static_cast<int32_t>(chosen.get(i)));
    out.weights.push_back(weights.get(i));
  }
  for (int64_t e = 0; e < experts; ++e) out.score_sum.push_back(sum.get(e));
  return out;
}

TEST(Route, SoftmaxTakesTheBestAndTheLowerOfEquals) {
  const Route r = route({0, 2, 2, 1}, 4, 3, {});
  EXPECT_EQ(r.experts, (std::vector<int32_t>{1, 2, 3}));
  const double sum = std::exp(-2) + 1 + 1 + std::exp(-1);
  EXPECT_NEAR(r.weights[0], 1 / sum, 1e-15);
  EXPECT_NEAR(r.weights[2], std::exp(-1) / sum, 1e-15);
  EXPECT_NEAR(r.score_sum[0], std::exp(-2) / sum, 1e-15);
  const Route normalised = route({0, 2, 2, 1}, 4, 3, {.normalise = true});
  EXPECT_NEAR(normalised.weights[0], 1 / (2 + std::exp(-1)), 1e-15);
}

// DeepSeek-V3: sigmoid; the correction decides, the score weighs; the two best of a group count for
// it; what is in other groups can't be chosen, even where all kept choices are negative.
TEST(Route, SigmoidWithCorrectionAndGroups) {
  const std::vector<double> logits = {3, -4, 1, 0.9, 2, 1.8};
  const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  RouteRule rule{.scores = Scores::sigmoid,
                 .normalise = true,
                 .epsilon = 1e-20f,
                 .factor = 2.5f,
                 .groups = 3,
                 .kept_groups = 1};
  // groups' sums: .95 + .02, .73 + .71, .88 + .86
  Route r = route(logits, 6, 2, rule);
  EXPECT_EQ(r.experts, (std::vector<int32_t>{4, 5}));
  EXPECT_NEAR(r.weights[0], 2.5 * sigmoid(2) / (sigmoid(2) + sigmoid(1.8)), 1e-12);
  // the correction moves the choice to the second group and the order in it, not the weights
  r = route(logits, 6, 2, rule, {-3, -3, -2.9, -2.5, -3, -3});
  EXPECT_EQ(r.experts, (std::vector<int32_t>{3, 2}));
  EXPECT_NEAR(r.weights[0], 2.5 * sigmoid(0.9) / (sigmoid(1) + sigmoid(0.9)), 1e-12);
  rule.kept_groups = 2;
  r = route(logits, 6, 2, rule, {0, 0, 0, 0, 0, 0});
  EXPECT_EQ(r.experts, (std::vector<int32_t>{4, 5}));  // the first group is out: .97 < 1.44
}

// The choice is the reference's on every path, weights are within fp32's rounding; rows alone and
// threads change no bit.
TEST(Route, EveryPath) {
  const int64_t rows = 150, experts = 40, k = 6;
  const auto logits = numbers(1, rows * experts, 4), correction = numbers(2, experts, 0.5);
  for (const RouteRule& rule :
       {RouteRule{.normalise = true},
        RouteRule{.scores = Scores::sigmoid, .factor = 1.5f, .groups = 5, .kept_groups = 3}}) {
    const auto bias = rule.groups > 1 ? correction : std::vector<double>{};
    for (const DType dtype : {DType::f32, DType::bf16}) {
      std::vector<double> rounded = logits;
      for (double& v : rounded) v = round_to(dtype, v);
      std::vector<double> bias32 = bias;
      for (double& v : bias32) v = round_to(DType::f32, v);
      const Route truth = route(rounded, experts, k, rule, bias32);
      for (const Isa isa : cpu::available_isas()) {
        const Route got = route(rounded, experts, k, rule, bias32, isa, dtype, 2);
        const Route one = route(rounded, experts, k, rule, bias32, isa, dtype, 1);
        EXPECT_EQ(got.weights, one.weights);
        EXPECT_EQ(got.score_sum, one.score_sum);
        for (size_t i = 0; i < truth.experts.size(); ++i) {
          // bf16 logits have ties, which scores in fp32 may break one way and f64 none
          if (dtype == DType::f32) {
            EXPECT_EQ(got.experts[i], truth.experts[i]) << describe(isa, dtype);
          }
          EXPECT_NEAR(got.weights[i], truth.weights[i], 1e-5) << describe(isa, dtype);
        }
        const int64_t row = 77;
        const Route alone =
            route({rounded.begin() + row * experts, rounded.begin() + (row + 1) * experts}, experts,
                  k, rule, bias32, isa, dtype);
        for (int64_t j = 0; j < k; ++j) {
          EXPECT_EQ(alone.weights[static_cast<size_t>(j)],
                    got.weights[static_cast<size_t>(row * k + j)]);
        }
      }
    }
  }
}

TEST(Route, Gradient) {
  const int64_t rows = 3, experts = 6, k = 2;
  const auto logits = numbers(3, rows * experts, 2), dweights = numbers(4, rows * k),
             dsum = numbers(5, experts);
  for (const Scores scores : {Scores::softmax, Scores::sigmoid}) {
    for (const bool normalise : {false, true}) {
      const RouteRule rule{
          .scores = scores, .normalise = normalise, .epsilon = 0.25f, .factor = 1.5f};
      const auto loss = [&](const std::vector<double>& at) {
        const Route r = route(at, experts, k, rule);
        double sum = 0;
        for (size_t i = 0; i < r.weights.size(); ++i) sum += r.weights[i] * dweights[i];
        for (size_t e = 0; e < r.score_sum.size(); ++e) sum += r.score_sum[e] * dsum[e];
        return sum;
      };
      const Route forward = route(logits, experts, k, rule);
      Array x(DType::f64, {rows, experts}), dx(DType::f64, {rows, experts}, 1),
          chosen(DType::i32, {rows, k}), dw(DType::f64, {rows, k}), ds(DType::f64, {experts});
      x.set_all(logits);
      dw.set_all(dweights);
      ds.set_all(dsum);
      for (int64_t i = 0; i < rows * k; ++i) chosen.set(i, forward.experts[static_cast<size_t>(i)]);
      const Status status = run_kernel(cpu::route_backward(Isa::reference),
                                       RouteBackwardDesc{.logits = x.view(),
                                                         .experts = chosen.view(),
                                                         .dweights = dw.view(),
                                                         .dscore_sum = ds.view(),
                                                         .dlogits = dx.view(),
                                                         .rule = rule});
      ASSERT_TRUE(status.ok()) << status.error;
      check_gradient(loss, logits, dx, 1e-6);
    }
  }
}

TEST(Route, RefusesWhatMakesNoSense) {
  Array x(DType::f32, {2, 4}), chosen(DType::i32, {2, 5}), weights(DType::f32, {2, 5});
  EXPECT_FALSE(
      run_kernel(cpu::route(Isa::scalar),
                 RouteDesc{.logits = x.view(), .experts = chosen.view(), .weights = weights.view()})
          .ok());
  Array two(DType::i32, {2, 2}), w(DType::f32, {2, 2});
  EXPECT_FALSE(
      run_kernel(cpu::route(Isa::scalar), RouteDesc{.logits = x.view(),
                                                    .experts = two.view(),
                                                    .weights = w.view(),
                                                    .rule = {.groups = 3, .kept_groups = 1}})
          .ok());
}

// Rows of [T, K] in an order that is no identity.
std::vector<double> shuffled_places(int64_t t, int64_t k) {
  std::vector<double> places;
  for (int64_t i = 0; i < t * k; ++i) places.push_back(static_cast<double>(i * 7 % (t * k)));
  return places;
}

Op combine_op(int64_t t, int64_t k, int64_t d, bool weighted, bool add) {
  Op op;
  op.in = {{Kind::data, {t * k, d}, numbers(1, t * k * d), false, false},
           {Kind::i32, {t, k}, shuffled_places(t, k)},
           {Kind::data, {t, k}, numbers(2, t * k)},
           {Kind::data, {t, d}, numbers(3, t * d)}};
  op.out = {{Kind::data, {t, d}, {}}};
  op.run = [=](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    CombineDesc c{.x = in[0].view(), .places = in[1].view(), .y = out[0].view()};
    if (weighted) c.weights = in[2].view();
    if (add) c.add = in[3].view();
    return run_kernel(cpu::combine(isa), c, threads);
  };
  return op;
}

TEST(Combine, AccuracyAndThreads) {
  for (const int64_t d : {1, 24, 600, 1100}) {
    for (const bool weighted : {false, true})
      check_accuracy(combine_op(8, 3, d, weighted, weighted), 8);
  }
  check_threads(combine_op(50, 4, 700, true, true));
  const Op op = combine_op(2, 2, 3, true, true);
  const auto y = execute(op, {});
  const auto &x = op.in[0].values, &w = op.in[2].values, &a = op.in[3].values;
  const auto places = shuffled_places(2, 2);
  for (size_t row = 0; row < 2; ++row) {
    for (size_t i = 0; i < 3; ++i) {
      double sum = a[row * 3 + i];
      for (size_t j = 0; j < 2; ++j)
        sum += w[row * 2 + j] * x[static_cast<size_t>(places[row * 2 + j]) * 3 + i];
      EXPECT_NEAR(y[0].get(static_cast<int64_t>(row * 3 + i)), sum, 1e-14);
    }
  }
}

Op combine_backward_op(int64_t t, int64_t k, int64_t d) {
  Op op;
  op.in = {{Kind::data, {t * k, d}, numbers(1, t * k * d)},
           {Kind::i32, {t, k}, shuffled_places(t, k)},
           {Kind::data, {t, k}, numbers(2, t * k)},
           {Kind::data, {t, d}, numbers(3, t * d)}};
  op.out = {{Kind::data, {t * k, d}, {}}, {Kind::stat, {t, k}, {}, false}};
  op.run = [=](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    return run_kernel(cpu::combine_backward(isa),
                      CombineBackwardDesc{.x = in[0].view(),
                                          .places = in[1].view(),
                                          .weights = in[2].view(),
                                          .dy = in[3].view(),
                                          .dx = out[0].view(),
                                          .dweights = out[1].view()},
                      threads);
  };
  return op;
}

TEST(Combine, Backward) {
  for (const int64_t d : {1, 24, 600, 1100}) check_accuracy(combine_backward_op(8, 3, d), 64);
  check_threads(combine_backward_op(50, 4, 700));
  const int64_t t = 4, k = 2, d = 5;
  const auto x = numbers(1, t * k * d), w = numbers(2, t * k), dy = numbers(3, t * d);
  const auto loss = [&](const std::vector<double>& x, const std::vector<double>& w) {
    Op op = combine_op(t, k, d, true, false);
    op.in[0].values = x;
    op.in[2].values = w;
    const auto y = execute(op, {});
    double sum = 0;
    for (int64_t i = 0; i < y[0].numel(); ++i) sum += y[0].get(i) * dy[static_cast<size_t>(i)];
    return sum;
  };
  const auto grads = execute(combine_backward_op(t, k, d), {});
  check_gradient([&](const std::vector<double>& v) { return loss(v, w); }, x, grads[0], 1e-6);
  check_gradient([&](const std::vector<double>& v) { return loss(x, v); }, w, grads[1], 1e-6);
}

}  // namespace
}  // namespace hone::test
