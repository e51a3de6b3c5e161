#include "train/sft.h"

#include <memory>
#include <nlohmann/json.hpp>

#include "data/loader.h"
#include "io/checkpoint.h"
#include "train/sft_options.h"
#include "train/text_side.h"

namespace hone::train {
namespace {

using Json = nlohmann::json;

class SftRecipe final : public Recipe {
 public:
  SftRecipe(const SftOptions& options, std::function<void(const std::string&)> say)
      : o_(options), say_(std::move(say)) {}

  RunLength open() override {
    const auto warn = [this](const std::string& line) { say("warning: " + line); };
    machine_ = std::make_unique<Machine>(
        hone::MachineOptions{.threads = o_.threads, .memory_limit = o_.arena_limit});
    model_ = std::make_unique<load::Model>(
        *machine_, load::ModelOptions{.folder = o_.pretrained, .dtype = o_.dtype, .warn = warn});
    set_up_tuning(*model_, o_);
    data::TextModelOptions text_options = o_.text;
    text_options.adapter = o_.adapter;
    const data::TextModel text = data::TextModel::load(o_.pretrained, text_options);
    const models::ModelConfig& config = model_->config();
    if (text.tokenizer.max_id() >= config.vocab_size) {
      warn(
          fmt::format("the tokenizer has ids up to {} but the embedding has {} rows; a sample that "
                      "uses such an id is an error",
                      text.tokenizer.max_id(), config.vocab_size));
    }
    if (effective_max_length(o_, config) < o_.max_length) {
      say(fmt::format("samples are cut at {} tokens, the model's context (--max_length {})",
                      config.max_position_embeddings, o_.max_length));
    }
    const auto open = [&](const std::vector<std::string>& paths) {
      data::DatasetOptions d = dataset_options(o_, paths, config);
      d.warn = warn;
      auto dataset = data::Dataset::open(text, d);
      for (const std::string& line : dataset->describe()) say(line);
      dataset->require_trainable();
      return dataset;
    };
    dataset_ = open(o_.dataset);
    stop_ids_ = end_ids(config, o_.adapter, text, dataset_->turn_ends());
    if (!o_.eval_dataset.empty()) eval_dataset_ = open(o_.eval_dataset);
    data::LoaderOptions l;
    l.batch_size = o_.batch_size * o_.accumulation_steps;
    l.shuffle = o_.shuffle;
    l.seed = o_.seed;
    l.threads = o_.threads;
    const int64_t n = dataset_->size();
    steps_per_epoch_ = (n + l.batch_size - 1) / l.batch_size;
    steps_ = o_.max_steps > 0 ? o_.max_steps : o_.num_epochs * steps_per_epoch_;
    l.num_epochs = (steps_ + steps_per_epoch_ - 1) / steps_per_epoch_;
    loader_options_ = l;
    weights_fingerprint_ = io::weights_fingerprint(o_.pretrained);
    return {.steps = steps_, .steps_per_epoch = steps_per_epoch_};
  }

  load::Model& model() override { return *model_; }

  Json config() const override {
    Json j = options_json(o_);
    j["effective"] = {{"samples", dataset_->size()}};
    return j;
  }

  Json identity() const override {
    Json j = options_identity(o_);
    j["dtype"] = std::string(dtype_name(model_->dtype()));
    j["dataset_fingerprint"] = dataset_->fingerprint();
    j["weights_fingerprint"] = weights_fingerprint_;
    j["steps"] = steps_;
    return j;
  }

  void prepare(int64_t first_step, const std::filesystem::path& cache) override {
    loader_options_.cache_folder = cache.string();
    loader_ = std::make_unique<data::Loader>(dataset_, loader_options_);
    if (first_step < steps_)
      loader_->start(first_step / steps_per_epoch_, first_step % steps_per_epoch_);
  }

  StepReport step(Context& ctx, int64_t step, int64_t micro_batch_tokens) override {
    last_ = loader_->step(step / steps_per_epoch_, step % steps_per_epoch_);
    StepReport report{.tokens = last_.tokens, .trained_tokens = last_.trained_tokens};
    if (last_.trained_tokens == 0) return report;
    const auto micro_batches = data::pack(last_.samples, {.token_budget = micro_batch_tokens});
    report.result =
        forward_backward(ctx, model_->decoder(), loss::SftObjective(),
                         {.micro_batches = micro_batches, .step_tokens = last_.trained_tokens});
    return report;
  }

  StepSource last_step() const override {
    StepSource out;
    for (const data::Sample& sample : last_.samples) {
      auto begin = static_cast<std::ptrdiff_t>(0);
      for (int64_t i = 0; i < sample.sequences(); ++i) {
        const auto end = sample.lengths.empty() ? static_cast<std::ptrdiff_t>(sample.tokens.size())
                                                : begin + sample.lengths[static_cast<size_t>(i)];
        out.jsonl += Json({{"tokens", std::vector<int32_t>(sample.tokens.begin() + begin,
                                                           sample.tokens.begin() + end)},
                           {"trained", std::vector<uint8_t>(sample.trained.begin() + begin,
                                                            sample.trained.begin() + end)},
                           {"source", dataset_->location(sample.index)}})
                         .dump() +
                     "\n";
        begin = end;
      }
      out.places += (out.places.empty() ? "" : ", ") + dataset_->location(sample.index);
    }
    return out;
  }

  bool evaluates() const override { return eval_dataset_ != nullptr; }
  double evaluate(Context& ctx, int64_t micro_batch_tokens) override {
    return evaluate_loss(ctx, model_->decoder(), *eval_dataset_, micro_batch_tokens);
  }
  std::vector<SampleAnswer> answers(Context& ctx) override {
    return sample_answers(ctx, model_->decoder(), *eval_dataset_, o_.eval_samples,
                          o_.eval_max_new_tokens, stop_ids_);
  }

  void write_beside(const std::filesystem::path& folder) const override {
    save_text_side(folder, o_.pretrained, dataset_->text_model(), stop_ids_);
  }
  void finish() override { dataset_->warn_noted(); }
  void stop() override { loader_.reset(); }

 private:
  void say(const std::string& line) const {
    if (say_) say_(line);
  }

  const SftOptions& o_;
  std::function<void(const std::string&)> say_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<load::Model> model_;
  std::shared_ptr<const data::Dataset> dataset_, eval_dataset_;
  data::LoaderOptions loader_options_;
  std::unique_ptr<data::Loader> loader_;
  data::StepSamples last_;
  std::string weights_fingerprint_;
  std::vector<int32_t> stop_ids_;
  int64_t steps_per_epoch_ = 0, steps_ = 0;
};

}  // namespace

RunEnd run_sft(const SftOptions& options, const RunEvents& events) {
  check_options(options);
  SftRecipe recipe(options, events.say);
  return run(options, recipe, events);
}

}  // namespace hone::train
