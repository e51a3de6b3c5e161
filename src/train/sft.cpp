#include "train/sft.h"

#include "train/data_recipe.h"
#include "train/options_json.h"

namespace hone::train {
namespace {

class SftRecipe final : public DataRecipe {
 public:
  SftRecipe(const SftOptions& options, Machine& machine, const Say& say)
      : DataRecipe(options, machine, say), o_(options) {}

  StepResult evaluate(Context& ctx, int64_t micro_batch_tokens) override {
    return {.loss = evaluate_loss(ctx, model().decoder(), eval_dataset(), micro_batch_tokens),
            .metrics = {}};
  }

  int64_t longest_unit() const override { return max_length() - 1; }

  std::vector<Work> fullest(int64_t tokens) override {
    const int64_t length = std::max<int64_t>(1, std::min(tokens, longest_unit()));
    const auto mb =
        std::make_shared<const data::MicroBatch>(data::full_micro_batch(tokens, length));
    return work(
        [this, mb, tokens](Context& ctx) {
          train(ctx, {mb.get(), 1}, tokens);
        },
        [this, mb](Context& ctx) { score(ctx, model().decoder(), *mb); });
  }

 protected:
  nlohmann::json own_config() const override { return options_json(o_); }
  nlohmann::json own_identity() const override { return options_identity(o_); }

  void set_dataset_options(data::DatasetOptions& d) const override {
    d.format = o_.dataset_format;
    d.dataset_info = o_.dataset_info;
    d.train_on = o_.train_on;
    d.append_eos = o_.append_eos;
  }

  StepResult gradients(Context& ctx, const data::StepSamples& samples,
                       int64_t micro_batch_tokens) override {
    return train(ctx, data::pack(samples.samples, {.token_budget = micro_batch_tokens}),
                 samples.trained_tokens);
  }

 private:
  StepResult train(Context& ctx, std::span<const data::MicroBatch> micro_batches,
                   int64_t step_tokens) {
    return forward_backward(ctx, model().decoder(), loss::SftObjective(),
                            {.micro_batches = micro_batches, .step_tokens = step_tokens});
  }

  const SftOptions& o_;
};

}  // namespace

std::unique_ptr<Recipe> sft_recipe(const SftOptions& options, Machine& machine, const Say& say) {
  return std::make_unique<SftRecipe>(options, machine, say);
}

}  // namespace hone::train
