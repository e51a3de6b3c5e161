// The passes of a step for objectives of every coupling, with toys that are coupled: the loss is
// what its formula gives on the scores, gradients agree with differences and with each other under
// every split and schedule.
#include "exec/memory.h"
#include "train/pass.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "optim/adamw.h"
#include "support/golden.h"
#include "train/run_log.h"

namespace hone {
namespace {

using test::error;
using test::Golden;

constexpr double kBeta = 0.3;

// Sums of a column by sample.
std::vector<double> sums(const loss::ObjectiveInput& in, std::span<const double> column, size_t n) {
  std::vector<double> sum(n, 0);
  for (const loss::SampleRange& r : in.samples)
    for (int64_t i = r.begin; i < r.end; ++i)
      sum[static_cast<size_t>(r.sample)] += column[static_cast<size_t>(i)];
  return sum;
}

// Cross-entropy that doesn't say its adjoint beforehand.
class LateSft final : public loss::Objective {
 public:
  loss::Coupling coupling() const override { return loss::Coupling::token; }
  loss::ObjectiveResult evaluate(const loss::ObjectiveInput& in) const override {
    EXPECT_TRUE(in.reference.empty() && in.old.empty());
    return loss::SftObjective().evaluate(in);
  }
};

// DPO over pairs of samples (2i, 2i + 1), of which `samples` are in the step.
class Pairs final : public loss::Objective {
 public:
  explicit Pairs(size_t samples) : samples_(samples) {}
  loss::Coupling coupling() const override { return loss::Coupling::unit; }
  loss::ObjectiveResult evaluate(const loss::ObjectiveInput& in) const override {
    const auto lp = sums(in, in.logprob, samples_), ref = sums(in, in.reference, samples_);
    std::vector<bool> here(samples_, false);
    for (const loss::SampleRange& r : in.samples) here[static_cast<size_t>(r.sample)] = true;
    loss::ObjectiveResult out;
    std::vector<double> by_sample(samples_, 0);
    const double pairs = static_cast<double>(samples_ / 2);
    double wins = 0;
    for (size_t c = 0; c < samples_; c += 2) {
      EXPECT_EQ(here[c], here[c + 1]);
      if (!here[c]) continue;
      const double margin = kBeta * (lp[c] - ref[c] - lp[c + 1] + ref[c + 1]);
      out.loss += std::log1p(std::exp(-margin)) / pairs;
      wins += (margin > 0) / pairs;
      by_sample[c] = -kBeta / (1 + std::exp(margin)) / pairs;
      by_sample[c + 1] = -by_sample[c];
    }
    out.dlogprob.resize(in.logprob.size());
    for (const loss::SampleRange& r : in.samples)
      for (int64_t i = r.begin; i < r.end; ++i)
        out.dlogprob[static_cast<size_t>(i)] = by_sample[static_cast<size_t>(r.sample)];
    out.metrics = {{"rewards/accuracy", wins},
                   {"pairs", static_cast<double>(in.samples.size()) / 2}};
    return out;
  }

 private:
  size_t samples_;
};

// log of the sum over samples of exp(-sum of their advantage-weighted log-probs / 10): every
// adjoint needs all log-probs of the step.
class LogSum final : public loss::Objective {
 public:
  explicit LogSum(size_t samples) : samples_(samples) {}
  loss::Coupling coupling() const override { return loss::Coupling::step; }
  loss::ObjectiveResult evaluate(const loss::ObjectiveInput& in) const override {
    EXPECT_EQ(static_cast<int64_t>(in.logprob.size()), in.step_tokens);
    std::vector<double> weighted(in.logprob.size());
    for (size_t i = 0; i < weighted.size(); ++i) weighted[i] = in.logprob[i] * in.advantage[i] / 10;
    const auto sum = sums(in, weighted, samples_);
    double z = 0;
    for (const double s : sum) z += std::exp(-s);
    loss::ObjectiveResult out;
    out.loss = std::log(z);
    out.dlogprob.resize(in.logprob.size());
    for (const loss::SampleRange& r : in.samples)
      for (int64_t i = r.begin; i < r.end; ++i)
        out.dlogprob[static_cast<size_t>(i)] = -std::exp(-sum[static_cast<size_t>(r.sample)]) / z *
                                               in.advantage[static_cast<size_t>(i)] / 10;
    return out;
  }

 private:
  size_t samples_;
};

// Four of a golden model's samples as two pairs, its LoRA adapter with dropout, fp32.
class PassTest : public testing::Test {
 protected:
  void SetUp() override {
    const Golden golden("qwen2");
    model_ = std::make_unique<load::Model>(
        machine_, load::ModelOptions{.folder = golden.folder(), .dtype = DType::f32});
    for (nn::Linear* linear : model_->load_adapter(golden.folder() / "lora", true))
      linear->params.lora->dropout = 0.2;
    model_->load();
    ctx_ = model_->context();
    ctx_.seed = 5;
    model_->params().allocate_gradients(machine_.arena());
    samples_ = golden.train_samples();
    samples_.resize(4);
    for (size_t i = 0; i < samples_.size(); ++i) {
      tokens_ += samples_[i].trained_count;
      units_.push_back(static_cast<int64_t>(i / 2));
      train::SampleColumns c;
      for (size_t t = 0; t < samples_[i].tokens.size(); ++t) {
        c.reference.push_back(-3 - 0.01 * static_cast<double>(t * (i + 1)));
        c.advantage.push_back(std::sin(static_cast<double>(t + 7 * i)));
      }
      columns_.push_back(std::move(c));
    }
  }

  std::vector<data::MicroBatch> packed(int64_t budget, bool units) const {
    return data::pack(
        samples_, {.token_budget = budget,
                   .units = units ? std::span<const int64_t>(units_) : std::span<const int64_t>()});
  }

  struct Outcome {
    train::StepResult step;
    std::vector<double> gradients;
  };
  Outcome run(const loss::Objective& objective, const std::vector<data::MicroBatch>& micro,
              train::StepPasses passes = train::StepPasses::again) {
    const bool sft = objective.coupling() == loss::Coupling::token;
    train::zero_gradients(ctx_);
    Outcome o;
    o.step =
        train::forward_backward(ctx_, model_->decoder(), objective,
                                {.micro_batches = micro,
                                 .step_tokens = tokens_,
                                 .columns = sft ? std::span<const train::SampleColumns>()
                                                : std::span<const train::SampleColumns>(columns_),
                                 .units = units_,
                                 .passes = passes});
    for (const ParamId id : model_->params().trainable())
      for (const double g : read(ctx_, model_->params().grad(id), 0)) o.gradients.push_back(g);
    return o;
  }

  // The derivative of the loss along `direction` in all trained values, by central differences.
  double difference(const loss::Objective& objective, const std::vector<data::MicroBatch>& micro,
                    const std::vector<double>& direction) {
    constexpr double kStep = 2e-3;
    double loss[2];
    for (int side = 0; side < 2; ++side) {
      move(direction, side == 0 ? kStep : -2 * kStep);
      loss[side] = run(objective, micro).step.loss;
    }
    move(direction, kStep);
    return (loss[0] - loss[1]) / (2 * kStep);
  }
  void move(const std::vector<double>& direction, double by) {
    size_t at = 0;
    for (const ParamId id : model_->params().trainable()) {
      const View v = model_->params().value(id).view();
      for (int64_t i = 0; i < v.numel(); ++i)
        static_cast<float*>(v.data)[i] += static_cast<float>(by * direction[at++]);
    }
    model_->params().values_changed();
  }

  // A unit vector somewhere between the gradient's direction and chance.
  static std::vector<double> direction_near(const std::vector<double>& g) {
    double norm = 0;
    for (const double x : g) norm += x * x;
    norm = std::sqrt(norm);
    std::vector<double> d(g.size());
    for (size_t i = 0; i < g.size(); ++i)
      d[i] = g[i] / norm +
             0.5 * std::cos(static_cast<double>(3 * i)) / std::sqrt(static_cast<double>(g.size()));
    return d;
  }
  void expect_derivative(const loss::Objective& objective,
                         const std::vector<data::MicroBatch>& micro) {
    const std::vector<double> g = run(objective, micro).gradients;
    const std::vector<double> d = direction_near(g);
    double along = 0;
    for (size_t i = 0; i < g.size(); ++i) along += g[i] * d[i];
    // fp32 losses near 1 over a step of 4e-3, and the third derivative.
    EXPECT_NEAR(difference(objective, micro, d), along, 2e-3 * std::fabs(along));
  }

  Machine machine_{{.threads = 2}};
  std::unique_ptr<load::Model> model_;
  Context ctx_;
  std::vector<data::Sample> samples_;
  std::vector<train::SampleColumns> columns_;
  std::vector<int64_t> units_;
  int64_t tokens_ = 0;
};

// The head's gradient in the forward pass and on the tape are the same to rounding.
TEST_F(PassTest, AnAdjointThatIsKnownLate) {
  const auto micro = packed(100, false);
  const Outcome early = run(loss::SftObjective(), micro), late = run(LateSft(), micro);
  EXPECT_EQ(early.step.loss, late.step.loss);
  EXPECT_LE(error(late.gradients, early.gradients), 1e-5);
}

TEST_F(PassTest, PairsInAnySplit) {
  const Pairs objective(samples_.size());
  const auto together = packed(100000, true), apart = packed(1, true);
  ASSERT_EQ(together.size(), 1u);
  ASSERT_EQ(apart.size(), 2u);
  const Outcome one = run(objective, together), two = run(objective, apart);
  EXPECT_NEAR(one.step.loss, two.step.loss, 1e-6 * one.step.loss);
  EXPECT_LE(error(two.gradients, one.gradients), 1e-5);
  // Metrics are summed under their names, in their order.
  ASSERT_EQ(two.step.metrics.size(), 2u);
  EXPECT_EQ(two.step.metrics[0], one.step.metrics[0]);
  EXPECT_EQ(two.step.metrics[0].first, "rewards/accuracy");
  EXPECT_EQ(two.step.metrics[1].second, 2);
  expect_derivative(objective, apart);
}

TEST_F(PassTest, PairsThatAreSplitAreAnError) {
  EXPECT_THROW(run(Pairs(samples_.size()), packed(1, false)), InternalError);
}

TEST_F(PassTest, AWholeStepInBothSchedules) {
  const LogSum objective(samples_.size());
  const auto together = packed(100000, false), apart = packed(1, false);
  ASSERT_EQ(apart.size(), 4u);
  const Outcome one = run(objective, together), again = run(objective, apart),
                keep = run(objective, apart, train::StepPasses::keep);
  EXPECT_NEAR(one.step.loss, again.step.loss, 1e-6 * std::fabs(one.step.loss));
  EXPECT_EQ(keep.step.loss, again.step.loss);
  EXPECT_LE(error(again.gradients, one.gradients), 1e-5);
  EXPECT_LE(error(keep.gradients, again.gradients), 1e-5);
  expect_derivative(objective, apart);
}

// forward_only gives the loss of the model without dropout: what the formula makes of score()'s
// log-probs.
TEST_F(PassTest, LossAloneIsTheFormulaOnScores) {
  const LogSum objective(samples_.size());
  const auto micro = packed(100, false);
  double z = 0;
  for (size_t i = 0; i < samples_.size(); ++i) {
    const auto alone = data::pack(std::span(&samples_[i], 1), {.token_budget = 100000});
    const std::vector<double> lp = train::score(ctx_, model_->decoder(), alone.at(0));
    double sum = 0;
    for (size_t r = 0; r < lp.size(); ++r)
      sum += lp[r] * columns_[i].advantage[static_cast<size_t>(alone[0].row_positions[r])] / 10;
    z += std::exp(-sum);
  }
  const train::PassInput input{.micro_batches = micro, .step_tokens = tokens_, .columns = columns_};
  EXPECT_DOUBLE_EQ(train::forward_only(ctx_, model_->decoder(), objective, input).loss,
                   std::log(z));
}

// What an objective names stands in metrics.jsonl, beside the numbers that every run has.
TEST(RunLog, WritesTheObjectivesMetrics) {
  const auto path = std::filesystem::path(testing::TempDir()) / "objective_metrics.jsonl";
  std::filesystem::remove(path);
  train::StepMetrics m;
  m.step = 3;
  m.objective = {{"rewards/margin", 0.25}, {"kl", 2}};
  train::RunLog(path, "", 0).step(m);
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json.at("step"), 3);
  EXPECT_EQ(json.at("rewards/margin"), 0.25);
  EXPECT_EQ(json.at("kl"), 2);
}

}  // namespace
}  // namespace hone
