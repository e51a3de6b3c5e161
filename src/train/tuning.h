// What the options tune, and a model made ready for it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "load/model.h"
#include "train/options.h"

namespace hone::train {

// The adapter config that --lora_* ask for; lora_rank > 0.
io::AdapterConfig adapter_config(const TrainerOptions& o);

// Prepares a model for what the options tune: adds or loads the adapter, or makes base weights
// trainable. Before Model::load().
void set_up_tuning(load::Model& model, const TrainerOptions& o);

// Lines of the table of what is trained.
std::vector<std::string> tuning_table(load::Model& model);

// Loads the weights. A context with the run's seed and policy for blocks.
Context load_to_train(load::Model& model, const TrainerOptions& o);
// Gradients and optimizer state of what is trained.
std::unique_ptr<optim::AdamW> make_optimizer(Context& ctx, const OptimOptions& o);

}  // namespace hone::train
