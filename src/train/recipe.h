// What a trainer is beside what every run does (train/run.h): what it tunes, its data, the
// gradients of a step, what it measures. A recipe on a meta machine is what the planner runs
// (plan/plan.h), so that the plan is made by the trainer itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "load/model.h"
#include "train/evaluate.h"
#include "train/options.h"
#include "train/pass.h"

namespace hone::train {

struct RunLength {
  int64_t steps = 0, steps_per_epoch = 0;
};

struct StepReport {
  StepResult result;
  int64_t tokens = 0;
  int64_t trained_tokens = 0;  // 0: the step has nothing to train, and no gradients were made
};

class Recipe {
 public:
  virtual ~Recipe() = default;

  // Config and headers are read, what is to be tuned is set up; not loaded.
  virtual load::Model& model() = 0;
  // ---- A run. The methods are called in the order in which they stand here.

  // Everything that can be known before a weight is read.
  virtual RunLength open() = 0;
  // The run's configuration, saved as run.json; and what of it and of its inputs must be equal for
  // a resumed run to go on as if never stopped.
  virtual nlohmann::json config() const = 0;
  virtual nlohmann::json identity() const = 0;
  // Samples are prepared from here on, while the weights are read. cache: a folder for that.
  virtual void prepare(int64_t first_step, const std::filesystem::path& cache) = 0;
  // The weights are as they were given: no step was made and no checkpoint restored.
  virtual void loaded(Context& ctx, int64_t micro_batch_tokens) = 0;
  // Adds the gradients of a step to the store's; the same again if asked again.
  virtual StepReport step(Context& ctx, int64_t step, int64_t micro_batch_tokens) = 0;
  // Of the last step: its samples as a file for --dataset, and where they come from.
  struct StepSource {
    std::string jsonl, places;
  };
  virtual StepSource last_step() const = 0;
  virtual bool evaluates() const = 0;
  virtual StepResult evaluate(Context& ctx, int64_t micro_batch_tokens) = 0;
  virtual std::vector<SampleAnswer> answers(Context& ctx) = 0;
  // Writes what lies beside weights, in a checkpoint and in the result.
  virtual void write_beside(const std::filesystem::path& folder) const = 0;
  // All steps are done.
  virtual void finish() = 0;
  // Nothing is prepared any more: the folder is given up.
  virtual void stop() = 0;

  // ---- A plan.

  // Computed tokens of the largest that must lie in one micro-batch.
  virtual int64_t longest_unit() const = 0;
  // What it holds in memory beside tensors that grows with the data.
  virtual size_t host_bytes() const { return 0; }
  struct Work {
    const char* phase;
    std::function<void(Context&)> run;
  };
  // The gradients of a micro-batch as full as one of so many tokens can be; then what else a run
  // does with the model.
  virtual std::vector<Work> fullest(int64_t tokens) = 0;
};

// A line for people.
using Say = std::function<void(const std::string&)>;
// A trainer with its options, on a machine that is real or meta. UserError.
using MakeRecipe = std::function<std::unique_ptr<Recipe>(Machine&, const Say&)>;

}  // namespace hone::train
