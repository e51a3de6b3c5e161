// Runs and plans of trainers, as commands.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "train/recipe.h"

namespace hone::app {

// A trainer as the command line asks for it.
struct TrainRequest {
  train::TrainerOptions& options;
  std::string config_file;                   // the configuration is also written here; "": nowhere
  std::vector<std::string> notes = {};       // one sentence each
  train::MakeRecipe make = {};               // from the options as they are then
  std::function<std::string()> config = {};  // the configuration as JSON
};

// Both return an exit code.
int run_trainer(TrainRequest request);
int plan_trainer(TrainRequest request, bool json);

}  // namespace hone::app
