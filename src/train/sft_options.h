// What follows from the options alone: checks, the adapter they describe, and how they are saved.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "train/sft.h"

namespace hone::train {

// Of --micro_batch_tokens 0, where no --memory asks for less.
constexpr int64_t kDefaultMicroBatchTokens = 2048;

// Throws UserError for values that make no sense or contradict each other.
void check_options(const SftOptions& o);

// The adapter config that --lora_* ask for; lora_rank > 0.
io::AdapterConfig adapter_config(const SftOptions& o);

// The effective configuration, as saved in run.json: flag name -> value.
nlohmann::json options_json(const SftOptions& o);
// Those of them that a run which goes on must have as it had them before.
nlohmann::json options_identity(const SftOptions& o);

// A sentence if the warm-up takes the whole run, so that the schedule never comes to act; else "".
std::string warmup_warning(int64_t warmup, int64_t steps, double lr);

// Prepares a model for what the options tune: adds or loads the adapter, or makes base weights
// trainable. Before Model::load().
void set_up_tuning(load::Model& model, const SftOptions& o);

// Lines of the table of what is trained.
std::vector<std::string> tuning_table(load::Model& model);

// max_length, but no longer than the model's context.
int64_t effective_max_length(const SftOptions& o, const models::ModelConfig& config);

data::DatasetOptions dataset_options(const SftOptions& o, const std::vector<std::string>& paths,
                                     const models::ModelConfig& config);

}  // namespace hone::train
