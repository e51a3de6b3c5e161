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
  std::function<void(const std::string&)> say;  // a line for people
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

RunEnd run(const RunOptions& options, Recipe& recipe, const RunEvents& events);

}  // namespace hone::train
