// A recipe over data sets of samples: one pass over them an epoch, in an order of the seed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/loader.h"
#include "train/recipe.h"

namespace hone::train {

class DataRecipe : public Recipe {
 public:
  load::Model& model() override { return *model_; }
  RunLength open() override;
  nlohmann::json config() const override;
  nlohmann::json identity() const override;
  void prepare(int64_t first_step, const std::filesystem::path& cache) override;
  void loaded(Context&, int64_t) override {}
  StepReport step(Context& ctx, int64_t step, int64_t micro_batch_tokens) override;
  StepSource last_step() const override;
  bool evaluates() const override { return eval_dataset_ != nullptr; }
  std::vector<SampleAnswer> answers(Context& ctx) override;
  void write_beside(const std::filesystem::path& folder) const override;
  void finish() override { dataset_->warn_noted(); }
  void stop() override { loader_.reset(); }

 protected:
  // options outlive it. UserError as check_options(), and for what a model folder lacks.
  DataRecipe(const TrainerOptions& options, Machine& machine, Say say);

  // options_json() and options_identity() of the trainer's own.
  virtual nlohmann::json own_config() const = 0;
  virtual nlohmann::json own_identity() const = 0;
  // How records become samples: d holds what all trainers have.
  virtual void set_dataset_options(data::DatasetOptions& d) const = 0;
  // Adds the gradients of the samples, which are those of a whole step, to the store's.
  virtual StepResult gradients(Context& ctx, const data::StepSamples& samples,
                               int64_t micro_batch_tokens) = 0;

  const TrainerOptions& options() const { return o_; }
  void say(const std::string& line) const {
    if (say_) say_(line);
  }
  // max_length, but no longer than the model's context.
  int64_t max_length() const;
  // fullest() of a micro-batch's gradients, and of what an evaluation does, if there is one.
  std::vector<Work> work(std::function<void(Context&)> gradients,
                         std::function<void(Context&)> evaluation) const;
  const data::Dataset& dataset() const { return *dataset_; }
  const data::Dataset& eval_dataset() const { return *eval_dataset_; }
  const data::Loader& loader() const { return *loader_; }
  const RunLength& length() const { return length_; }
  int64_t first_step() const { return first_step_; }
  data::StepSamples samples_of(int64_t step);
  // Of the samples that the run uses, and of all that it is evaluated on.
  std::vector<int64_t> used_indices() const;
  std::vector<int64_t> eval_indices() const;
  // Those it is evaluated on that have something to train; says what was left out.
  std::vector<data::Sample> eval_samples() const;

 private:
  Work longest_answers() const;  // that an evaluation shows
  void warn(const std::string& line) const { say("warning: " + line); }
  std::shared_ptr<const data::Dataset> open_dataset(const data::TextModel& text,
                                                    const std::vector<std::string>& paths) const;

  const TrainerOptions& o_;
  Say say_;
  std::unique_ptr<load::Model> model_;
  std::shared_ptr<const data::Dataset> dataset_, eval_dataset_;
  data::LoaderOptions loader_options_;
  std::unique_ptr<data::Loader> loader_;
  data::StepSamples last_;
  std::string weights_fingerprint_;
  std::vector<int32_t> stop_ids_;
  RunLength length_;
  int64_t first_step_ = 0;
};

}  // namespace hone::train
