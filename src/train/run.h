// A run of any trainer: its folder, resuming, the step around a recipe's gradients, evaluation,
// log, checkpoints, result. What is trained for is the recipe's (train/recipe.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "train/options.h"
#include "train/recipe.h"

namespace hone::train {

// What the run reports to its surroundings.
struct RunEvents {
  // Set to 1 by the first Ctrl-C: the step at hand ends, a checkpoint is saved, the run returns.
  const std::atomic<int>* stop = nullptr;
  Say say;
  // After every step.
  struct Progress {
    int64_t step, steps;  // step from 1
    double loss, learning_rate, grad_norm, tokens_per_second, seconds_left;
    int64_t tokens;
    size_t peak_memory;
  };
  std::function<void(const Progress&)> progress;
};

enum class RunEnd { finished, interrupted, already_finished };

// Checks all that can be checked, loads, trains, saves. Errors as exceptions (core/error.h);
// nothing that existed is damaged. options are those that the recipe is made from.
RunEnd run(const TrainerOptions& options, const MakeRecipe& make, const RunEvents& events);

}  // namespace hone::train
