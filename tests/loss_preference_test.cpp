// Losses over pairs, labels and scores against TRL 1.16's own functions on fixed log-probs, and
// every adjoint against differences.
#include "loss/preference.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace hone::loss {
namespace {

using Lists = std::vector<std::vector<double>>;

void append(Column& column, const Lists& lists) {
  for (const std::vector<double>& list : lists) {
    column.values.insert(column.values.end(), list.begin(), list.end());
    column.segments.add(list.size());
  }
}

// Three pairs: the chosen sides, then the rejected ones.
Batch pairs(const Lists& third_ref_rejected = {{-.6, -1.9, -.7}}) {
  Batch b;
  b.samples = 6;
  append(b.logprob, {{-1, -.5, -2}, {-.25, -1.5}, {-.75, -.5, -1.25, -.1}});
  append(b.logprob, {{-1.5, -.9}, {-2, -.3, -.6, -1.1}, {-.4, -2.2, -.7}});
  append(b.ref_logprob, {{-1.2, -.7, -1.8}, {-.5, -1.4}, {-1, -.5, -1.5, -.3}});
  append(b.ref_logprob, {{-1.1, -.8}, {-1.6, -.4, -.5, -1}});
  append(b.ref_logprob, third_ref_rejected);
  b.pair = {0, 1, 2, 0, 1, 2};
  b.chosen = {1, 1, 1, 0, 0, 0};
  return b;
}

double checked(const Loss& loss, const Batch& batch, Evaluation* out = nullptr) {
  const Evaluation e = evaluate(loss, batch);
  const AdjointCheck check = check_adjoint(loss, batch, e);
  EXPECT_TRUE(check.passed) << check.where << ": " << check.largest_gap;
  if (out != nullptr) *out = e;
  return e.loss;
}

double dpo(DpoOptions o, const Batch& batch = pairs()) { return checked(dpo_loss(o), batch); }
double dpo(const char* name) { return dpo({.losses = {name}}); }

TEST(DpoLoss, IsTrls) {
  EXPECT_NEAR(dpo("sigmoid"), 0.65796058, 1e-8);
  EXPECT_NEAR(dpo("hinge"), 0.92833333, 1e-8);
  EXPECT_NEAR(dpo("ipo"), 22.64456019, 1e-7);
  EXPECT_NEAR(dpo({.losses = {"exo_pair"}, .label_smoothing = 1e-3}), 2.63818533, 1e-7);
  EXPECT_NEAR(dpo("nca_pair"), 1.36882918, 1e-8);
  EXPECT_NEAR(dpo({.losses = {"robust"}, .label_smoothing = .1}), 0.64900225, 1e-8);
  EXPECT_NEAR(dpo("bco_pair"), 1.35090367, 1e-8);
  EXPECT_NEAR(dpo("sppo_hard"), 43.1875, 1e-7);
  EXPECT_NEAR(dpo("aot"), 0.65796058, 1e-8);
  EXPECT_NEAR(dpo("aot_unpaired"), 0.65796058, 1e-8);
  EXPECT_NEAR(dpo({.losses = {"aot"}, .label_smoothing = .1}), 0.66512725, 1e-8);
  EXPECT_NEAR(dpo("apo_zero"), 0.98208754, 1e-8);
  EXPECT_NEAR(dpo("apo_down"), 0.99083871, 1e-8);
  EXPECT_NEAR(dpo("discopop"), 0.87804880, 1e-8);
  EXPECT_NEAR(dpo("sft"), 0.87222222, 1e-8);
  EXPECT_NEAR(dpo("sigmoid_norm"), 0.68114038, 1e-8);
  EXPECT_NEAR(dpo({.beta = .5}), 0.53006334, 1e-8);
  EXPECT_NEAR(dpo({.ld_alpha = .5}), 0.65957726, 1e-8);
  EXPECT_NEAR(dpo({.f_divergence = "forward_kl"}), 0.65673728, 1e-8);
  EXPECT_NEAR(dpo({.f_divergence = "js_divergence"}), 0.67546871, 1e-8);
  EXPECT_NEAR(dpo({.losses = {"ipo"}, .f_divergence = "js_divergence"}), 23.78953539, 1e-7);
  EXPECT_NEAR(dpo({.f_divergence = "alpha_divergence"}), 0.65773004, 1e-6);  // fp32 there
  EXPECT_NEAR(dpo({.losses = {"sigmoid", "bco_pair", "sft"}, .weights = {.8, .2, 1}}), 1.66877142,
              1e-7);
  // sigmoid doesn't smooth.
  EXPECT_EQ(dpo({.label_smoothing = .3}), dpo("sigmoid"));
}

TEST(DpoLoss, SortedLossesSort) {
  const Batch b = pairs({{-3, -3, -3}});
  EXPECT_NEAR(dpo({}, b), 0.76467058, 1e-8);
  EXPECT_NEAR(dpo({.losses = {"aot"}}, b), 0.75945700, 1e-8);
  EXPECT_NEAR(dpo({.losses = {"aot_unpaired"}}, b), 0.76467058, 1e-8);
}

TEST(DpoLoss, WeightsOfWpo) {
  Batch b = pairs();
  append(b.log_sum_sq, {{-.8, -.9, -.4}, {-1.2, -.3}, {-.5, -.6, -.7, -.2}});
  append(b.log_sum_sq, {{-.3, -.9}, {-1, -.2, -.4, -.5}, {-.6, -.6, -.1}});
  EXPECT_NEAR(dpo({.use_weighting = true}, b), 0.29285195, 1e-8);
}

TEST(DpoLoss, GradientAndMetrics) {
  Evaluation e;
  checked(dpo_loss({}), pairs(), &e);
  EXPECT_NEAR(e.dlogprob[0], -.01608357, 1e-8);
  EXPECT_NEAR(e.dlogprob[3], -.01612519, 1e-8);
  EXPECT_NEAR(e.dlogprob[5], -.01600036, 1e-8);
  const auto metric = [&](const std::string& name) {
    for (const auto& [known, value] : e.notes.metrics)
      if (known == name) return value;
    ADD_FAILURE() << name;
    return 0.0;
  };
  EXPECT_NEAR(metric("rewards/margins"), metric("rewards/chosen") - metric("rewards/rejected"),
              1e-12);
  EXPECT_NEAR(metric("logps/chosen"), -7.85 / 3, 1e-12);
}

TEST(DpoLoss, AtTheReferenceItIsLnTwoAndRewardsAreZero) {
  Batch b = pairs();
  b.ref_logprob = b.logprob;
  Evaluation e;
  EXPECT_NEAR(checked(dpo_loss({}), b, &e), std::log(2.0), 1e-15);
  for (const auto& [name, value] : e.notes.metrics)
    if (name.starts_with("rewards/")) {
      EXPECT_EQ(value, 0) << name;
    }
}

TEST(CpoLoss, IsTrls) {
  const auto cpo = [](CpoOptions o) { return checked(cpo_loss(o), pairs()); };
  EXPECT_NEAR(cpo({}), 1.53734905, 1e-8);
  EXPECT_NEAR(cpo({.label_smoothing = .1, .cpo_alpha = 0}), 0.67129349, 1e-8);
  EXPECT_NEAR(cpo({.loss = "hinge"}), 1.81055556, 1e-8);
  EXPECT_NEAR(cpo({.loss = "ipo"}), 23.91752315, 1e-7);
  EXPECT_NEAR(cpo({.loss = "simpo", .cpo_alpha = 0}), 0.96154105, 1e-8);
  EXPECT_NEAR(cpo({.loss = "simpo", .beta = 2, .cpo_alpha = 0, .simpo_gamma = 1.6}), 1.47081422,
              1e-8);
  EXPECT_NEAR(cpo({.loss = "alphapo", .alpha = .2}), 0.95906858, 1e-8);
}

TEST(OrpoLoss, IsTrls) {
  Batch b = pairs();
  append(b.prompt_logprob, {{-3, -2}, {-1}, {-.5, -.5, -4}, {-3, -2}, {-1}, {-.5, -.5, -4}});
  EXPECT_NEAR(checked(orpo_loss({}), b), 1.31137541, 1e-6);  // fp32 odds there
}

TEST(KtoLoss, IsTrls) {
  Batch b;
  b.samples = 4;
  append(b.logprob, {{-1, -.5}, {-.7, -.2, -1.1}, {-2}, {-.3, -.9}});
  append(b.ref_logprob, {{-1.3, -.6}, {-.6, -.3, -.9}, {-1.5}, {-.4, -1.2}});
  append(b.kl_logprob, {{-3, -1}, {-2, -1.5}, {-1, -2, -1.5}, {-2.5}});
  append(b.kl_ref_logprob, {{-3.1, -1.2}, {-2.3, -1.6}, {-1.1, -2.2, -1.4}, {-2.6}});
  b.label = {1, 0, 1, 0};
  EXPECT_NEAR(checked(kto_loss({}), b), 0.50187328, 1e-8);
  EXPECT_NEAR(checked(kto_loss({.beta = .5, .desirable_weight = 1.33}), b), 0.59776202, 1e-8);
  EXPECT_NEAR(checked(kto_loss({.loss = "apo_zero_unpaired"}), b), 0.50187439, 1e-8);
  b.kl_logprob = {};
  EXPECT_THROW(evaluate(kto_loss({}), b), UserError);
}

TEST(RewardLoss, IsTrls) {
  Batch b;
  b.samples = 6;
  b.score = {.3, -.2, 1.1, -.4, .5, .9};
  b.pair = {0, 1, 2, 0, 1, 2};
  b.chosen = {1, 1, 1, 0, 0, 0};
  EXPECT_NEAR(checked(reward_loss({}), b), 0.70150366, 1e-8);
  EXPECT_NEAR(checked(reward_loss({.center_rewards_coefficient = .01}), b), 0.71517032, 1e-8);
  b.margin = {.5, 0, 1, 0, 0, 0};
  EXPECT_NEAR(checked(reward_loss({}), b), 0.95747519, 1e-8);
  EXPECT_NEAR(checked(reward_loss({.center_rewards_coefficient = .01}), b), 0.97114186, 1e-8);
}

TEST(Losses, AWrongAdjointIsFound) {
  const Loss wrong = [](Tape&, const Batch&, const Variables& v, Notes&) {
    return autodiff::sum(autodiff::detail::map(
        v.logprob, [](double x) { return x * x; }, [](double x, double) { return 1.9 * x; }));
  };
  const Batch b = pairs();
  EXPECT_FALSE(check_adjoint(wrong, b, evaluate(wrong, b)).passed);
}

TEST(Losses, WhatMakesNoSenseIsNamed) {
  EXPECT_THROW(dpo_loss({.losses = {"sigmod"}}), UserError);
  EXPECT_THROW(dpo_loss({.losses = {"exo_pair"}}), UserError);
  EXPECT_THROW(dpo_loss({.losses = {"aot"}, .f_divergence = "forward_kl"}), UserError);
  EXPECT_THROW(dpo_loss({.weights = {1, 2}}), UserError);
  EXPECT_THROW(dpo_loss({.beta = 0}), UserError);
  EXPECT_THROW(cpo_loss({.loss = "hinge", .label_smoothing = .1}), UserError);
  Batch b = pairs();
  b.pair[5] = 7;
  EXPECT_THROW(evaluate(dpo_loss({}), b), UserError);
  b = pairs();
  b.ref_logprob = {};
  EXPECT_THROW(evaluate(dpo_loss({}), b), UserError);
}

}  // namespace
}  // namespace hone::loss
