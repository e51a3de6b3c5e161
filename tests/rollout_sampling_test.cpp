// Draws against the definition: sorted logits and exponentials in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "core/error.h"
#include "rollout/generate.h"

namespace hone::rollout {
namespace {

TEST(Sampling, AFewTokens) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};
  SamplingOptions o;
  o.temperature = 0;
  EXPECT_EQ(draw(logits, o, 0.9), 1);  // ties to the lowest id
  o.temperature = 1;
  o.top_k = 2;
  for (int i = 0; i < 50; ++i) {
    const int32_t t = draw(logits, o, i / 50.0);
    EXPECT_EQ(t, i < 25 ? 1 : 3);
  }
  o.top_k = 0;
  o.top_p = 0.5;  // 1 and 3 have 0.415 each: both are needed
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(draw(logits, o, i / 50.0) % 2 == 1);
  // Frequencies follow the distribution at a temperature.
  o.top_p = 1;
  o.temperature = 2;
  std::vector<double> count(5), p(5);
  const int n = 20000;
  for (int i = 0; i < n; ++i) ++count[static_cast<size_t>(draw(logits, o, (i + 0.5) / n))];
  double total = 0;
  for (size_t i = 0; i < 5; ++i) total += p[i] = std::exp(logits[i] / 2);
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(count[i] / n, p[i] / total, 1.0 / n);
}

// Probability of each token by the definition; 0 for those that top_k and top_p leave out.
std::vector<double> probabilities(const std::vector<float>& logits, const SamplingOptions& o,
                                  double top_p) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (o.top_k > 0 && o.top_k < static_cast<int64_t>(order.size()))
    order.resize(static_cast<size_t>(o.top_k));
  std::vector<double> p(logits.size());
  double total = 0;
  for (const size_t i : order)
    total += p[i] = std::exp(
        (static_cast<double>(logits[i]) - static_cast<double>(logits[order[0]])) / o.temperature);
  double kept = 0;
  for (size_t n = 0; n < order.size(); ++n) {
    if (n > 0 && top_p < 1 && kept >= top_p * total) p[order[n]] = 0;
    kept += p[order[n]];
  }
  for (double& x : p) x /= kept;
  return p;
}

std::vector<float> logits_of(const char* kind, size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  const std::string k = kind;
  for (float& v : x) {
    if (k == "peaked") v *= 6;
    if (k == "ties") v = std::round(v * 2) / 2;  // 0 and -0 among them
    if (k == "equal") v = -3;
    if (k == "masked" && v < 0.5f) v = -std::numeric_limits<float>::infinity();
  }
  if (k == "masked") x[n / 2] = 1;
  return x;
}

TEST(Sampling, FollowsTheDefinition) {
  int compared = 0, skipped = 0;
  for (const char* kind : {"normal", "peaked", "ties", "equal", "masked"}) {
    for (const size_t n : {1u, 5u, 63u, 1000u, 5001u, 50000u}) {
      const std::vector<float> logits = logits_of(kind, n, static_cast<unsigned>(n));
      for (const int64_t top_k : {0, 1, 7, 50, 3000}) {
        for (const double top_p : {1.0, 0.9, 0.3, 1e-9}) {
          for (const double temperature : {0.1, 1.0, 2.0}) {
            if (n > 10000 && temperature != 1) continue;
            SamplingOptions o;
            o.top_k = top_k;
            o.top_p = top_p;
            o.temperature = temperature;
            const std::vector<double> p = probabilities(logits, o, top_p);
            // fp32 exponentials may differ on which token is the last of top_p
            if (top_p < 1 && (p != probabilities(logits, o, top_p * (1 - 1e-5)) ||
                              p != probabilities(logits, o, top_p * (1 + 1e-5)))) {
              ++skipped;
              continue;
            }
            ++compared;
            std::vector<double> before(n + 1);  // the tokens in ascending order
            for (size_t i = 0; i < n; ++i) before[i + 1] = before[i] + p[i];
            for (int draws = 0; draws < 20; ++draws) {
              const double u = draws == 19 ? 1 - 1e-16 : (draws + 0.37) / 19;
              const int32_t got = draw(logits, o, u);
              ASSERT_TRUE(got >= 0 && got < static_cast<int32_t>(n));
              const auto id = static_cast<size_t>(got);
              EXPECT_GT(p[id], 0) << kind << " " << n << " k " << top_k << " p " << top_p;
              EXPECT_GT(before[id + 1], u - 2e-5);
              EXPECT_LT(before[id], u + 2e-5);
            }
          }
        }
      }
    }
  }
  EXPECT_GT(compared, 10 * skipped);
}

TEST(Sampling, StaysInsideWhateverTheLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& logits :
       {std::vector<float>(300, nan), std::vector<float>(300, -infinity),
        std::vector<float>{nan, 1, 2, nan}, std::vector<float>{infinity, 1, infinity}}) {
    for (const int64_t top_k : {0, 1, 2}) {
      for (const double top_p : {1.0, 0.5}) {
        for (const double temperature : {0.0, 1e-9, 1.0, 1e9}) {
          SamplingOptions o;
          o.top_k = top_k;
          o.top_p = top_p;
          o.temperature = temperature;
          for (const double u : {0.0, 0.5, 0.999}) {
            const int32_t got = draw(logits, o, u);
            EXPECT_TRUE(got >= 0 && got < static_cast<int32_t>(logits.size()));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace hone::rollout
