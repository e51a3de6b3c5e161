// GRPO's family, RLOO and PPO against TRL's own functions on fixed log-probs (PPO: TRL 1.12), and
// every adjoint against differences.
#include "loss/policy.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace hone::loss {
namespace {

using Lists = std::vector<std::vector<double>>;

Column column(const Lists& lists) {
  Column c;
  for (const std::vector<double>& list : lists) {
    c.values.insert(c.values.end(), list.begin(), list.end());
    c.segments.add(list.size());
  }
  return c;
}

Batch rows() {
  Batch b;
  b.samples = 4;
  b.logprob = column({{-1, -.5, -2}, {-.25, -1.5}, {-.7, -.5, -1.2, -.1}, {-.9}});
  b.old_logprob = column({{-1.2, -.5, -1.5}, {-.25, -1.9}, {-.6, -.9, -1.2, -.1}, {-1}});
  b.ref_logprob = column({{-1.1, -.6, -1.9}, {-.3, -1.4}, {-.7, -.7, -1, -.2}, {-1.1}});
  b.entropy = column({{1, .5, 2}, {.2, 1.4}, {.7, .6, 1.2, .1}, {.9}});
  b.advantage = {1.2, -.8, .5, -.9};
  return b;
}

double checked(const Loss& loss, const Batch& batch, Evaluation* out = nullptr) {
  const Evaluation e = evaluate(loss, batch);
  const AdjointCheck check = check_adjoint(loss, batch, e);
  EXPECT_TRUE(check.passed) << check.where << ": " << check.largest_gap;
  if (out != nullptr) *out = e;
  return e.loss;
}

double grpo(const GrpoOptions& o, const Batch& batch = rows()) {
  return checked(grpo_loss(o), batch);
}

TEST(GrpoLoss, IsTrls) {
  EXPECT_NEAR(grpo({.loss = "grpo"}), 0.08891669, 1e-8);
  EXPECT_NEAR(grpo({.loss = "bnpo"}), -0.24321419, 1e-8);
  EXPECT_NEAR(grpo({}), -0.24321419, 1e-8);
  EXPECT_NEAR(grpo({.loss = "dr_grpo", .max_completion_length = 4}), -0.15200887, 1e-8);
  EXPECT_NEAR(grpo({.loss = "dr_grpo", .max_completion_length = 16}), -0.03800222, 1e-8);
  EXPECT_NEAR(grpo({.loss = "cispo"}), 0.0648, 1e-8);
  EXPECT_NEAR(grpo({.loss = "cispo", .epsilon_high = 5}), 0.19756281, 1e-8);
  EXPECT_NEAR(grpo({.loss = "sapo"}), 0.03598244, 1e-7);  // fp32 temperatures there
  EXPECT_NEAR(grpo({.loss = "luspo"}), -0.60803548, 1e-8);
  EXPECT_NEAR(grpo({.loss = "luspo", .sequence_level = true}), -0.61607119, 1e-8);
  EXPECT_NEAR(grpo({.loss = "vespo"}), 0.31892272, 1e-8);
  EXPECT_NEAR(grpo({.epsilon_high = .28}), -0.24978252, 1e-8);
  EXPECT_NEAR(grpo({.loss = "grpo", .sequence_level = true}), 0.08675726, 1e-8);
  EXPECT_NEAR(grpo({.loss = "grpo", .epsilon = 3e-4, .epsilon_high = 4e-4, .sequence_level = true}),
              0.09644278, 1e-8);
  EXPECT_NEAR(grpo({.beta = .04}), -0.24282335, 1e-8);
  EXPECT_NEAR(grpo({.beta = .04, .use_bias_correction_kl = false}), -0.24287440, 1e-8);
  EXPECT_NEAR(
      grpo({.num_items_in_batch = 40, .gradient_accumulation_steps = 2, .steps_per_generation = 4}),
      -0.12160710, 1e-8);
  EXPECT_NEAR(grpo({.top_entropy_quantile = .4}), -0.14743770, 1e-8);
  EXPECT_NEAR(grpo({.entropy_coef = .01}), -0.25181419, 1e-8);
  EXPECT_NEAR(grpo({.loss = "gmpo", .epsilon = .4}), 0.08675726, 1e-8);
  Batch weighted = rows();
  weighted.sampling_ratio = column({{1, 1, 1}, {0, 0}, {2.5, 2.5, 2.5, 2.5}, {.7}});
  EXPECT_NEAR(grpo({}, weighted), -0.78026259, 1e-8);
}

TEST(GrpoLoss, UpperBoundOfTheUnclippedRatio) {
  // Not above 1 + epsilon, as the reference was run with; the option is checked when it is set.
  EXPECT_THROW(grpo_loss({.delta = 1.1}), UserError);
  EXPECT_NO_THROW(grpo_loss({.delta = 4.0}));
}

TEST(GrpoLoss, Gradient) {
  Evaluation e;
  checked(grpo_loss({}), rows(), &e);
  const std::vector<double> want = {0,          -.12, -.07278368, .08,  .11934598,
                                    -.04524187, 0,    -.05,       -.05, .09946538};
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(e.dlogprob[i], want[i], 1e-8) << i;
  for (const auto& [name, value] : e.notes.metrics)
    if (name == "clip_ratio/high_mean") {
      EXPECT_NEAR(value, .2, 1e-12);
    }
}

TEST(GrpoLoss, OnPolicyTheKlsGradientIsThePeersTwo) {
  Batch b;
  b.samples = 2;
  b.logprob = column({{-1, -.5}, {-.7, -1.5}});
  b.ref_logprob = column({{-1.6, -.1}, {-.5, -2.5}});
  b.advantage = {0, 0};
  Evaluation e;
  EXPECT_NEAR(checked(grpo_loss({.beta = 1}), b, &e), .15747963, 1e-8);
  const std::vector<double> with = {.15, -.1, -.05, .25};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(e.dlogprob[i], with[i], 1e-8);
  checked(grpo_loss({.beta = 1, .use_bias_correction_kl = false}), b, &e);
  const std::vector<double> without = {.1127971, -.1229562, -.0553507, .1580301};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(e.dlogprob[i], without[i], 1e-7);
}

Batch rewarded(const std::vector<std::vector<std::optional<double>>>& rewards, int64_t group) {
  Batch b;
  b.samples = rewards.size();
  b.rewards = rewards;
  for (size_t i = 0; i < rewards.size(); ++i) b.group.push_back(static_cast<int64_t>(i) / group);
  return b;
}

TEST(Advantages, AreTrls) {
  const Batch b = rewarded({{1.}, {0.}, {0.}, {1.}, {1.}, {1.}, {1.}, {0.}}, 4);
  Metrics m;
  const std::vector<double> group = advantages_of(b, {}, {}, m);
  const std::vector<double> want = {.86587542, -.86587542, -.86587542, .86587542,
                                    .49990001, .49990001,  .49990001,  -1.49970007};
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(group[i], want[i], 1e-7);
  const std::vector<double> rloo = advantages_of(b, {.estimator = "rloo"}, {}, m);
  EXPECT_NEAR(rloo[0], 2. / 3, 1e-12);
  EXPECT_NEAR(rloo[4], 1. / 3, 1e-12);
  EXPECT_NEAR(rloo[7], -1, 1e-12);
  // Absent rewards count nothing; a sample without any has none of it.
  const Batch two =
      rewarded({{1., 0.}, {std::nullopt, 1.}, {std::nullopt, std::nullopt}, {.5, 1.}}, 4);
  const std::vector<double> a = advantages_of(two, {.weights = {1, 2}}, {}, m);
  const std::vector<double> mixed = {-1.09094656, .21818925, 0, .87275720};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(a[i], mixed[i], 1e-6);
  // A constant group.
  for (const double x : advantages_of(rewarded({{2.}, {2.}}, 2), {}, {}, m)) EXPECT_EQ(x, 0);
}

TEST(RlooLoss, IsTrls) { EXPECT_NEAR(checked(rloo_loss({}), rows()), 0.17478293, 1e-8); }

Batch ppo_rows() {
  Batch b;
  b.samples = 2;
  b.old_logprob = column({{-1, -.5, -2}, {-.3, -1.2, -.7}});
  b.ref_logprob = column({{-1.1, -.4, -1.7}, {-.4, -1, -.9}});
  b.logprob = column({{-.9, -.6, -1.5}, {-.3, -1.4, -.6}});
  b.old_value = column({{.1, .2, .3}, {0, -.1, .4}});
  b.value = column({{.2, .1, .6}, {.1, -.4, .3}});
  b.score = {1, -.5};
  return b;
}

TEST(PpoLoss, IsTrls) {
  Evaluation e;
  EXPECT_NEAR(checked(ppo_loss({}), ppo_rows(), &e), -0.00286186, 1e-7);
  const std::vector<double> advantages = {.96215814,  .88908284,  .79837319,
                                          -.71687095, -.60255059, -1.33019263};
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(e.notes.advantages[i], advantages[i], 1e-7);
  EXPECT_NEAR(e.notes.metrics[0].second, -0.02426410, 1e-7);
  EXPECT_NEAR(e.notes.metrics[1].second, 0.21402241, 1e-7);
  EXPECT_NEAR(checked(ppo_loss({.kl_estimator = "k3"}), ppo_rows()), -0.00390713, 1e-7);
  EXPECT_NEAR(checked(ppo_loss({.whiten_rewards = true}), ppo_rows()), 0.05634477, 1e-7);
}

TEST(PpoLoss, MissingFieldsAreNamed) {
  Batch b = ppo_rows();
  b.value = {};
  EXPECT_THROW(evaluate(ppo_loss({}), b), UserError);
}

}  // namespace
}  // namespace hone::loss
