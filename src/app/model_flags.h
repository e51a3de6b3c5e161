// Flags that name a model, and what a command that runs it needs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "app/cli.h"
#include "data/dataset.h"
#include "io/loaded_model.h"
#include "rollout/generate.h"

namespace hone::app {

struct ModelFlags {
  std::string pretrained, adapter, dtype = "auto", memory;
  int threads = 0;
  void add(Command& c);
  // Loaded, adapter and all; warnings go to stderr. UserError.
  std::unique_ptr<io::LoadedModel> load() const;
  // The same for generating, with copies of the weights (which are read faster) where the machine
  // has memory for both and --memory sets no limit.
  std::unique_ptr<io::LoadedModel> load_to_generate() const;
  std::unique_ptr<io::LoadedModel> load(const std::string& folder, const std::string& adapter,
                                        bool copy_weights = false) const;
};

struct SamplingFlags {
  rollout::SamplingOptions o;
  void add(Command& c);
};

// Tokens that end a completion: of generation_config.json, else config.json, else the tokenizer,
// and those of a conversation_template. text may be null.
std::vector<int32_t> stop_ids(const models::ModelConfig& config, const data::TextModel* text);

// The text side of the model; null for a folder without tokenizer.json, whose models take token
// lists only.
std::unique_ptr<data::TextModel> load_text(const std::string& pretrained,
                                           const std::string& conversation_template = "");

}  // namespace hone::app
