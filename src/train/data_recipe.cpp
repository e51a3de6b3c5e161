#include "train/data_recipe.h"

#include <nlohmann/json.hpp>
#include <numeric>

#include "io/checkpoint.h"
#include "rollout/generate.h"
#include "train/text_side.h"
#include "train/tuning.h"

namespace hone::train {

using Json = nlohmann::json;

DataRecipe::DataRecipe(const TrainerOptions& options, Machine& machine, Say say)
    : o_(options), say_(std::move(say)) {
  check_options(o_);
  model_ = std::make_unique<load::Model>(
      machine, load::ModelOptions{.folder = o_.pretrained,
                                  .dtype = o_.dtype,
                                  .weights_memory = o_.weights_memory,
                                  .warn = [this](const std::string& line) { warn(line); }});
  set_up_tuning(*model_, o_);
}

int64_t DataRecipe::max_length() const {
  const int64_t context = model_->config().max_position_embeddings;
  return context <= 0 ? o_.max_length : std::min(o_.max_length, context);
}

std::shared_ptr<const data::Dataset> DataRecipe::open_dataset(
    const data::TextModel& text, const std::vector<std::string>& paths) const {
  data::DatasetOptions d;
  d.paths = paths;
  d.max_length = max_length();
  d.system_prompt = o_.system_prompt;
  d.vocab_limit = model_->config().vocab_size;
  d.threads = o_.threads;
  d.warn = [this](const std::string& line) { warn(line); };
  set_dataset_options(d);
  auto dataset = data::Dataset::open(text, d);
  for (const std::string& line : dataset->describe()) say(line);
  dataset->require_trainable();
  return dataset;
}

RunLength DataRecipe::open() {
  if (o_.dataset.empty()) user_error("dataset", "no data was given; use --dataset FILE");
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
  if (max_length() < o_.max_length) {
    say(fmt::format("samples are cut at {} tokens, the model's context (--max_length {})",
                    config.max_position_embeddings, o_.max_length));
  }
  dataset_ = open_dataset(text, o_.dataset);
  stop_ids_ = end_ids(config, o_.adapter, text, dataset_->turn_ends());
  if (!o_.eval_dataset.empty()) eval_dataset_ = open_dataset(text, o_.eval_dataset);
  weights_fingerprint_ = io::weights_fingerprint(o_.pretrained);
  const int64_t batch = o_.batch_size * o_.accumulation_steps;
  const int64_t per_epoch = (dataset_->size() + batch - 1) / batch;
  length_ = {.steps = o_.max_steps > 0 ? o_.max_steps : o_.num_epochs * per_epoch,
             .steps_per_epoch = per_epoch};
  loader_options_.batch_size = batch;
  loader_options_.shuffle = o_.shuffle;
  loader_options_.seed = o_.seed;
  loader_options_.threads = o_.threads;
  loader_options_.num_epochs = (length_.steps + per_epoch - 1) / per_epoch;
  return length_;
}

Json DataRecipe::config() const {
  Json j = own_config();
  j["effective"] = {{"samples", dataset_->size()}};
  return j;
}

Json DataRecipe::identity() const {
  Json j = own_identity();
  j["dtype"] = std::string(dtype_name(model_->dtype()));
  j["dataset_fingerprint"] = dataset_->fingerprint();
  j["weights_fingerprint"] = weights_fingerprint_;
  j["steps"] = length_.steps;
  return j;
}

void DataRecipe::prepare(int64_t first_step, const std::filesystem::path& cache) {
  first_step_ = first_step;
  loader_options_.cache_folder = cache.string();
  loader_ = std::make_unique<data::Loader>(dataset_, loader_options_);
  if (first_step < length_.steps)
    loader_->start(first_step / length_.steps_per_epoch, first_step % length_.steps_per_epoch);
}

StepReport DataRecipe::step(Context& ctx, int64_t step, int64_t micro_batch_tokens) {
  last_ = samples_of(step);
  StepReport report{.tokens = last_.tokens, .trained_tokens = last_.trained_tokens};
  if (last_.trained_tokens > 0) report.result = gradients(ctx, last_, micro_batch_tokens);
  return report;
}

data::StepSamples DataRecipe::samples_of(int64_t step) {
  return loader_->step(step / length_.steps_per_epoch, step % length_.steps_per_epoch);
}

std::vector<int64_t> DataRecipe::used_indices() const {
  // A run of less than an epoch uses the first of its order alone.
  const int64_t used = std::min(dataset_->size(), length_.steps * loader_options_.batch_size);
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < used; ++i) indices.push_back(loader_->sample_index(0, i));
  return indices;
}

std::vector<int64_t> DataRecipe::eval_indices() const {
  std::vector<int64_t> indices(eval_dataset_ ? static_cast<size_t>(eval_dataset_->size()) : 0);
  std::iota(indices.begin(), indices.end(), int64_t{0});
  return indices;
}

std::vector<data::Sample> DataRecipe::eval_samples() const {
  std::vector<data::Sample> samples;
  for (const int64_t i : eval_indices()) {
    data::Sample sample = eval_dataset_->get(i);
    eval_dataset_->note(sample);
    if (sample.trained_count > 0) samples.push_back(std::move(sample));
  }
  eval_dataset_->warn_noted();
  return samples;
}

DataRecipe::StepSource DataRecipe::last_step() const {
  StepSource out;
  for (const data::Sample& sample : last_.samples) {
    Json line = {{"tokens", sample.tokens},
                 {"trained", sample.trained},
                 {"source", dataset_->location(sample.index)}};
    if (!sample.lengths.empty()) line["sequences"] = sample.lengths;
    if (dataset_->options().format == data::DatasetFormat::kLabelled)
      line["label"] = sample.desirable;
    out.jsonl += line.dump() + "\n";
    out.places += (out.places.empty() ? "" : ", ") + dataset_->location(sample.index);
  }
  return out;
}

std::vector<SampleAnswer> DataRecipe::answers(Context& ctx) {
  return sample_answers(ctx, model_->decoder(), *eval_dataset_, o_.eval_samples,
                        o_.eval_max_new_tokens, stop_ids_);
}

void DataRecipe::write_beside(const std::filesystem::path& folder) const {
  save_text_side(folder, o_.pretrained, dataset_->text_model(), stop_ids_);
}

std::vector<Recipe::Work> DataRecipe::work(std::function<void(Context&)> gradients,
                                           std::function<void(Context&)> evaluation) const {
  std::vector<Work> all = {{"forward and backward", std::move(gradients)}};
  if (o_.eval_dataset.empty()) return all;
  all.push_back({"evaluation", std::move(evaluation)});
  if (o_.eval_samples > 0) all.push_back(longest_answers());
  return all;
}

Recipe::Work DataRecipe::longest_answers() const {
  return {"answers", [this](Context& ctx) {
            // To the longest prompts: the cache has room for all of each from the start.
            rollout::SamplingOptions sampling;
            sampling.max_new_tokens = 1;
            const int64_t longest = max_length() - 1;
            const rollout::Prompt prompt{.tokens = std::vector<int32_t>(static_cast<size_t>(
                                             longest + o_.eval_max_new_tokens - 1))};
            std::vector<rollout::Prompt> prompts(static_cast<size_t>(o_.eval_samples), prompt);
            // nothing in common
            for (size_t i = 0; i < prompts.size(); ++i)
              prompts[i].tokens[0] =
                  static_cast<int32_t>(i % static_cast<size_t>(model_->config().vocab_size));
            rollout::generate(ctx, model_->decoder(), prompts, sampling,
                              [](const rollout::Completion&) {});
          }};
}

}  // namespace hone::train
