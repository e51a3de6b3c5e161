// A family of models: what its config.json means, which fields it refuses, how that is written, and
// what its blocks are made of. One file a family, one line of the registry (family.cpp).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "models/block.h"
#include "models/config.h"

namespace hone {
class JsonFields;
}

namespace hone::models {

struct Family {
  std::string_view architecture;  // "Qwen2ForCausalLM"
  std::string_view model_type;    // "qwen2"
  // Reads all but what every family has (vocabulary, ties, dtype, special tokens: config.cpp).
  // UserError for what would change the result and isn't supported.
  void (*read)(JsonFields& fields, ModelConfig& config) = nullptr;
  // Writes the fields of its own.
  void (*write)(const ModelConfig& config, nlohmann::json& json) = nullptr;
  BlockSpec (*block)(const ModelConfig& config, int64_t layer) = nullptr;
  // Models of it may have experts: PEFT takes gate_proj, up_proj and down_proj for theirs.
  bool experts = false;
};

extern const Family kDeepseekV2, kDeepseekV3, kLlama, kMistral, kMixtral, kQwen2, kQwen2Moe, kQwen3,
    kQwen3Moe;

std::span<const Family* const> families();
// "LlamaForCausalLM, MistralForCausalLM and ...".
std::string supported_architectures();

}  // namespace hone::models
