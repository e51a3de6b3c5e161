#include "train/kto.h"

#include <algorithm>
#include <unordered_map>

#include "loss/label_objective.h"
#include "loss/preference.h"
#include "train/options_json.h"
#include "train/reference_recipe.h"

namespace hone::train {
namespace {

// Tokens before the answer.
ptrdiff_t prompt_length(const data::Sample& s) {
  return std::find(s.trained.begin(), s.trained.end(), uint8_t{1}) - s.trained.begin();
}

// After each prompt of a step the answer of the sample before (after the first, that of the last):
// what the KL term is estimated from. An answer that another prompt leaves no room is cut.
std::vector<data::Sample> mismatched(std::span<const data::Sample> samples, int64_t max_length) {
  std::vector<data::Sample> out;
  for (size_t i = 0; i < samples.size(); ++i) {
    const data::Sample& own = samples[i];
    const data::Sample& other = samples[(i + samples.size() - 1) % samples.size()];
    data::Sample s;
    s.tokens.assign(own.tokens.begin(), own.tokens.begin() + prompt_length(own));
    s.trained.assign(s.tokens.size(), 0);
    s.tokens.insert(s.tokens.end(), other.tokens.begin() + prompt_length(other),
                    other.tokens.end());
    s.trained.insert(s.trained.end(), other.trained.begin() + prompt_length(other),
                     other.trained.end());
    const auto size = std::min(s.tokens.size(), static_cast<size_t>(max_length));
    s.tokens.resize(size);
    s.trained.resize(size);
    s.trained_count = std::count(s.trained.begin(), s.trained.end(), uint8_t{1});
    s.key = own.key;
    out.push_back(std::move(s));
  }
  return out;
}

class KtoRecipe final : public ReferenceRecipe {
 public:
  KtoRecipe(const KtoOptions& options, Machine& machine, const Say& say)
      : ReferenceRecipe(options, machine, say),
        o_(options),
        loss_(loss::kto_loss({.loss = o_.loss,
                              .beta = o_.beta,
                              .desirable_weight = o_.desirable_weight,
                              .undesirable_weight = o_.undesirable_weight})) {
    compare_with(o_.reference);
    for (const auto& [flag, weight] : {std::pair{"desirable_weight", o_.desirable_weight},
                                       std::pair{"undesirable_weight", o_.undesirable_weight}})
      if (!(weight >= 0)) user_error(flag, "{} is negative; use 0 or more", weight);
    if (with_kl() && o_.batch_size * o_.accumulation_steps < 2)
      user_error("batch_size",
                 "1 leaves no other answer to estimate the KL term from; use 2 or more, or --loss "
                 "apo_zero_unpaired");
  }

  void loaded(Context& ctx, int64_t micro_batch_tokens) override {
    if (reference() != ReferenceKind::kept) return;
    keep_references(ctx, micro_batch_tokens, "answers", rows_.kept, eval_rows_.kept);
    if (!with_kl()) return;
    for (int64_t step = first_step(); step < length().steps; ++step)
      rows_.kl[step] = total(ctx, mismatched(samples_of(step).samples, max_length()),
                             micro_batch_tokens, /*adapters=*/true);
    if (evaluates())
      eval_rows_.kl[0] = total(ctx, mismatched(eval_samples(), max_length()), micro_batch_tokens,
                               /*adapters=*/true);
  }

  StepResult evaluate(Context& ctx, int64_t micro_batch_tokens) override {
    return pass(ctx, eval_samples(), micro_batch_tokens, eval_rows_, 0, forward_only);
  }

  int64_t longest_unit() const override { return max_length() - 1; }

  std::vector<Work> fullest(int64_t tokens) override {
    const int64_t length = std::max<int64_t>(1, std::min(tokens, longest_unit()));
    const auto samples = std::make_shared<std::vector<data::Sample>>();
    for (int64_t left = tokens; left > 0; left -= length)
      samples->push_back(full_sample(std::min(left, length)));
    const auto planned = [this, samples, tokens](Pass run) {
      return [this, samples, tokens, run](Context& ctx) {
        const Rows rows{.kept = empty_reference(*samples), .kl = {{0, 0.0}}};
        pass(ctx, *samples, tokens, rows, 0, run);
      };
    };
    return work(planned(forward_backward), planned(forward_only));
  }

 protected:
  nlohmann::json own_config() const override { return options_json(o_); }
  nlohmann::json own_identity() const override { return options_identity(o_); }

  void set_dataset_options(data::DatasetOptions& d) const override {
    d.format = data::DatasetFormat::kLabelled;
    d.train_on = TrainOn::kLast;
  }

  StepResult gradients(Context& ctx, const data::StepSamples& step,
                       int64_t micro_batch_tokens) override {
    return pass(ctx, step.samples, micro_batch_tokens, rows_, ctx.step, forward_backward);
  }

 private:
  // What the reference says, where it is kept: of samples, and the sum over a step's mismatched
  // answers.
  struct Rows {
    KeptReference kept;
    std::unordered_map<int64_t, double> kl;  // by step
  };

  bool with_kl() const { return o_.loss == "kto"; }

  // The sum of the log-probs of all trained tokens.
  double total(Context& ctx, std::span<const data::Sample> samples, int64_t micro_batch_tokens,
               bool adapters) {
    Context c = ctx;
    c.adapters = adapters;
    double sum = 0;
    for (const data::MicroBatch& mb : data::pack(samples, {.token_budget = micro_batch_tokens}))
      for (const double lp : score(c, model().decoder(), mb)) sum += lp;
    return sum;
  }

  StepResult pass(Context& ctx, std::span<const data::Sample> samples, int64_t micro_batch_tokens,
                  const Rows& rows, int64_t step, Pass run) {
    if (samples.empty()) return {};
    loss::LabelObjective::Options objective{.loss = loss_};
    for (const data::Sample& s : samples) objective.desirable.push_back(s.desirable ? 1 : 0);
    if (with_kl()) {
      const std::vector<data::Sample> others = mismatched(samples, max_length());
      const double reference_sum = reference() == ReferenceKind::kept
                                       ? rows.kl.at(step)
                                       : total(ctx, others, micro_batch_tokens, /*adapters=*/false);
      objective.kl = (total(ctx, others, micro_batch_tokens, /*adapters=*/true) - reference_sum) /
                     static_cast<double>(samples.size());
    }
    const std::vector<int64_t> units = each_a_unit(samples.size());
    const auto micro_batches =
        data::pack(samples, {.token_budget = micro_batch_tokens, .units = units});
    const std::vector<SampleColumns> columns =
        reference() == ReferenceKind::kept
            ? rows.kept.columns(samples)
            : reference_columns(ctx, model().decoder(), samples, micro_batches, /*adapters=*/false);
    return run(ctx, model().decoder(), loss::LabelObjective(std::move(objective)),
               {.micro_batches = micro_batches, .columns = columns, .units = units});
  }

  // All of its tokens behind the first are the answer.
  static data::Sample full_sample(int64_t length) {
    data::Sample s;
    s.tokens.assign(static_cast<size_t>(length + 1), 0);
    s.trained.assign(s.tokens.size(), 1);
    s.trained[0] = 0;
    s.trained_count = length;
    return s;
  }

  const KtoOptions& o_;
  loss::Loss loss_;
  Rows rows_, eval_rows_;
};

}  // namespace

std::unique_ptr<Recipe> kto_recipe(const KtoOptions& options, Machine& machine, const Say& say) {
  return std::make_unique<KtoRecipe>(options, machine, say);
}

}  // namespace hone::train
