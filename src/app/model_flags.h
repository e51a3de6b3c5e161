// Flags that name a model, and what a command that runs it needs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "app/cli.h"
#include "data/dataset.h"
#include "load/model.h"
#include "rollout/generate.h"

namespace hone::app {

struct ModelFlags {
  std::string pretrained, adapter, dtype = "auto", memory, weights_memory;
  int threads = 0;
  void add(Command& c);
  MachineOptions machine() const;  // UserError
  // On that machine, loaded, adapter and all; warnings go to stderr. UserError.
  std::unique_ptr<load::Model> load(Machine& machine) const;
  // The same for generating, with copies of the weights (which are read faster) where the machine
  // has memory for both and --memory sets no limit.
  std::unique_ptr<load::Model> load_to_generate(Machine& machine) const;
  std::unique_ptr<load::Model> load(Machine& machine, const std::string& folder,
                                    const std::string& adapter, bool copy_weights = false) const;
};

struct SamplingFlags {
  rollout::SamplingOptions o;
  void add(Command& c);
};

// Flags of the text side: --conversation_template, --template_kwargs, --eos_token.
void add_text_flags(Command& c, data::TextModelOptions& options);

// Tokens that end a completion: --eos_token, or of generation_config.json (else config.json, else
// the tokenizer), the adapter's, those of a conversation_template, and what the chat template ends
// an answer with. text may be null.
std::vector<int32_t> stop_ids(const models::ModelConfig& config, const std::string& adapter,
                              const data::TextModel* text);

// The text side of the model; null for a folder without tokenizer.json, whose models take token
// lists only.
std::unique_ptr<data::TextModel> load_text(const std::string& pretrained,
                                           const data::TextModelOptions& options = {});

}  // namespace hone::app
