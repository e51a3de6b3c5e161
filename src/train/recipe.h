// What a trainer is beside what every run does (train/run.h): its data, what it tunes, the
// gradients of a step, what it measures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "load/model.h"
#include "train/evaluate.h"
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

// The methods are called in the order in which they stand here.
class Recipe {
 public:
  virtual ~Recipe() = default;

  // Everything that can be known before a weight is read; what is to be tuned is set up.
  virtual RunLength open() = 0;
  virtual load::Model& model() = 0;
  // The run's configuration, saved as run.json; and what of it and of its inputs must be equal for
  // a resumed run to go on as if never stopped.
  virtual nlohmann::json config() const = 0;
  virtual nlohmann::json identity() const = 0;

  // Samples are prepared from here on, while the weights are read. cache: a folder for that.
  virtual void prepare(int64_t first_step, const std::filesystem::path& cache) = 0;
  // Adds the gradients of a step to the store's; the same again if asked again.
  virtual StepReport step(Context& ctx, int64_t step, int64_t micro_batch_tokens) = 0;
  // Of the last step: its samples as a file for --dataset, and where they come from.
  struct StepSource {
    std::string jsonl, places;
  };
  virtual StepSource last_step() const = 0;

  virtual bool evaluates() const = 0;
  virtual double evaluate(Context& ctx, int64_t micro_batch_tokens) = 0;
  virtual std::vector<SampleAnswer> answers(Context& ctx) = 0;

  // Writes what lies beside weights, in a checkpoint and in the result.
  virtual void write_beside(const std::filesystem::path& folder) const = 0;
  // All steps are done.
  virtual void finish() = 0;
  // Nothing is prepared any more: the folder is given up.
  virtual void stop() = 0;
};

}  // namespace hone::train
