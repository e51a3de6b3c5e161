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
  std::unique_ptr<io::LoadedModel> load(const std::string& folder,
                                        const std::string& adapter) const;
};

struct SamplingFlags {
  rollout::SamplingOptions o;
  void add(Command& c);
};

// Tokens that end a completion: of generation_config.json, else config.json, else the tokenizer,
// and those of a conversation_template.
std::vector<int32_t> stop_ids(const models::ModelConfig& config, const data::TextModel& text);

}  // namespace hone::app
