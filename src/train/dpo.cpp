#include "train/dpo.h"

#include <algorithm>
#include <numeric>

#include "loss/pair_objective.h"
#include "loss/preference.h"
#include "train/options_json.h"
#include "train/reference_recipe.h"

namespace hone::train {
namespace {

// What --loss and its options ask for.
struct PairLoss {
  loss::Loss loss;
  bool reference = false;
  bool whole_step = false;  // pairs of a step are sorted
};

bool has(const PairLossOptions& o, std::initializer_list<const char*> losses) {
  return std::any_of(losses.begin(), losses.end(), [&](const char* name) {
    return std::find(o.loss.begin(), o.loss.end(), name) != o.loss.end();
  });
}

// An option that no loss of the run reads is not what its user meant.
void refuse_idle(const PairLossOptions& o) {
  const PairLossOptions d;
  const auto needs = [&](const char* flag, bool is_default, bool acts, const char* losses) {
    if (!is_default && !acts)
      user_error("loss", "--{} has no meaning for --loss {}; it is of {}", flag,
                 fmt::format("{}", fmt::join(o.loss, ",")), losses);
  };
  const bool simpo = has(o, {"simpo", "alphapo"}), cpo = simpo || has(o, {"cpo"});
  needs("label_smoothing", o.label_smoothing == d.label_smoothing,
        cpo || has(o, {"exo_pair", "robust", "aot", "aot_unpaired"}),
        "exo_pair, robust, aot, aot_unpaired, cpo, simpo and alphapo");
  needs("discopop_tau", o.discopop_tau == d.discopop_tau, has(o, {"discopop"}), "discopop");
  needs("cpo_alpha", o.cpo_alpha == d.cpo_alpha, cpo, "cpo, simpo and alphapo");
  needs("simpo_gamma", o.simpo_gamma == d.simpo_gamma, simpo, "simpo and alphapo");
  needs("alpha", o.alpha == d.alpha, has(o, {"alphapo"}), "alphapo");
  needs("reference", o.reference == d.reference, !cpo && !has(o, {"orpo"}),
        "losses with a reference");
  if (o.f_alpha_divergence_coef != d.f_alpha_divergence_coef &&
      o.f_divergence_type != "alpha_divergence")
    user_error("loss", "--f_alpha_divergence_coef is of --f_divergence_type alpha_divergence");
  if (has(o, {"alphapo"}) && o.alpha == 0)
    user_error("loss", "--loss alphapo with --alpha 0 is simpo; give an --alpha such as 0.1");
}

PairLoss without_reference(const PairLossOptions& o) {
  const std::string& name = o.loss[0];
  if (!o.loss_weights.empty() || o.ld_alpha || o.f_divergence_type != "reverse_kl")
    user_error("loss",
               "--loss_weights, --ld_alpha and --f_divergence_type have no meaning for --loss {}; "
               "leave them out",
               name);
  if (name == "orpo") return {.loss = loss::orpo_loss({.beta = o.beta})};
  const bool cpo = name == "cpo";
  return {.loss = loss::cpo_loss({.loss = cpo ? "sigmoid" : "simpo",
                                  .beta = o.beta,
                                  .label_smoothing = o.label_smoothing,
                                  .cpo_alpha = o.cpo_alpha.value_or(cpo ? 1 : 0),
                                  .simpo_gamma = o.simpo_gamma,
                                  .alpha = cpo ? 0 : o.alpha})};
}

PairLoss pair_loss(const PairLossOptions& o) {
  refuse_idle(o);
  static const std::vector<std::string> kAlone = {"cpo", "simpo", "alphapo", "orpo"};
  const auto alone = std::find_first_of(o.loss.begin(), o.loss.end(), kAlone.begin(), kAlone.end());
  if (alone != o.loss.end()) {
    if (o.loss.size() > 1)
      user_error("loss", "--loss {} can't be added to others; give it alone", *alone);
    return without_reference(o);
  }
  const bool sorts = std::any_of(o.loss.begin(), o.loss.end(), [](const std::string& name) {
    return name == "aot" || name == "aot_unpaired";
  });
  return {.loss = loss::dpo_loss({.losses = o.loss,
                                  .weights = o.loss_weights,
                                  .beta = o.beta,
                                  .label_smoothing = o.label_smoothing,
                                  .f_divergence = o.f_divergence_type,
                                  .f_alpha_divergence_coef = o.f_alpha_divergence_coef,
                                  .ld_alpha = o.ld_alpha,
                                  .discopop_tau = o.discopop_tau}),
          .reference = true,
          .whole_step = sorts};
}

// Trained tokens of a pair's chosen side.
int64_t chosen_tokens(const data::Sample& pair) {
  return std::count(pair.trained.begin(), pair.trained.begin() + pair.lengths[0], uint8_t{1});
}

class DpoRecipe final : public ReferenceRecipe {
 public:
  DpoRecipe(const DpoOptions& options, Machine& machine, const Say& say)
      : ReferenceRecipe(options, machine, say), o_(options), loss_(pair_loss(options)) {
    if (loss_.reference) compare_with(o_.reference);
  }

  void loaded(Context& ctx, int64_t micro_batch_tokens) override {
    if (reference() == ReferenceKind::kept)
      keep_references(ctx, micro_batch_tokens, "pairs", kept_, eval_kept_);
  }

  StepResult evaluate(Context& ctx, int64_t micro_batch_tokens) override {
    return pass(ctx, eval_samples(), micro_batch_tokens, eval_kept_, forward_only);
  }

  int64_t longest_unit() const override { return 2 * (max_length() - 1); }

  std::vector<Work> fullest(int64_t tokens) override {
    const int64_t length = std::max<int64_t>(1, std::min(tokens / 2, max_length() - 1));
    const auto pairs = std::make_shared<std::vector<data::Sample>>();
    for (int64_t left = tokens; left > 0; left -= 2 * length) pairs->push_back(full_pair(length));
    // Reference log-probs that are kept cost no pass.
    const auto planned = [this, pairs, tokens](Pass run) {
      return [this, pairs, tokens, run](Context& ctx) {
        pass(ctx, *pairs, tokens, empty_reference(*pairs), run);
      };
    };
    return work(planned(forward_backward), planned(forward_only));
  }

 protected:
  nlohmann::json own_config() const override { return options_json(o_); }
  nlohmann::json own_identity() const override { return options_identity(o_); }

  void set_dataset_options(data::DatasetOptions& d) const override {
    d.format = data::DatasetFormat::kPairs;
    d.train_on = TrainOn::kLast;
  }

  StepResult gradients(Context& ctx, const data::StepSamples& step,
                       int64_t micro_batch_tokens) override {
    return pass(ctx, step.samples, micro_batch_tokens, kept_, forward_backward);
  }

 private:
  loss::PairObjective objective(std::span<const data::Sample> pairs) const {
    int64_t tokens = 0;
    for (const data::Sample& pair : pairs) tokens += chosen_tokens(pair);
    return loss::PairObjective({.loss = loss_.loss,
                                .reference = loss_.reference,
                                .whole_step = loss_.whole_step,
                                .pairs = static_cast<int64_t>(pairs.size()),
                                .chosen_tokens = tokens});
  }

  StepResult pass(Context& ctx, std::span<const data::Sample> pairs, int64_t micro_batch_tokens,
                  const KeptReference& kept, Pass run) {
    if (pairs.empty()) return {};
    const std::vector<int64_t> units = each_a_unit(pairs.size());
    // Both sides of a pair lie in one micro-batch.
    const auto micro_batches =
        data::pack(pairs, {.token_budget = micro_batch_tokens, .units = units});
    std::vector<SampleColumns> columns;
    if (reference() == ReferenceKind::adapter_off)
      columns = reference_columns(ctx, model().decoder(), pairs, micro_batches, false);
    if (reference() == ReferenceKind::kept) columns = kept.columns(pairs);
    return run(ctx, model().decoder(), objective(pairs),
               {.micro_batches = micro_batches, .columns = columns, .units = units});
  }

  // Sides of `length` computed tokens, every one of them labelled.
  static data::Sample full_pair(int64_t length) {
    const auto n = static_cast<size_t>(length + 1);
    data::Sample pair;
    pair.tokens.assign(2 * n, 0);
    pair.trained.assign(2 * n, 1);
    pair.trained[0] = pair.trained[n] = 0;
    pair.lengths = {static_cast<int32_t>(n), static_cast<int32_t>(n)};
    pair.trained_count = 2 * length;
    return pair;
  }

  const DpoOptions& o_;
  PairLoss loss_;
  KeptReference kept_, eval_kept_;
};

}  // namespace

std::unique_ptr<Recipe> dpo_recipe(const DpoOptions& options, Machine& machine, const Say& say) {
  return std::make_unique<DpoRecipe>(options, machine, say);
}

}  // namespace hone::train
