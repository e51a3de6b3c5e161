// LoRA adapters as PEFT stores them: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hone::io {

struct AdapterConfig {
  int64_t r = 8;
  double alpha = 8;
  double dropout = 0;
  bool use_rslora = false;
  // Exactly one of the two is used: a list of module names or suffixes, or a text: "all-linear" or
  // a regular expression that the whole module path must match.
  std::vector<std::string> target_modules;
  std::string target_expression;
  // Parameters, by suffix: the stacked weights of experts ("mlp.experts.gate_up_proj"), or
  // "X.weight" of a linear layer X.
  std::vector<std::string> target_parameters;
  std::vector<std::string> exclude_modules;
  std::string exclude_expression;
  std::vector<int64_t> layers_to_transform;  // empty: all
  std::vector<std::string> layers_pattern;   // names of the block list, "layers"; empty: any
  // Module suffix or expression -> value; the first that matches counts.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  std::string base_model_name_or_path;
  std::string revision;
  std::string task_type = "CAUSAL_LM";
  std::string init_lora_weights = "true";   // "true", "false", "gaussian"; only for new adapters
  std::vector<std::string> unknown_fields;  // ignored; to be said once

  bool all_linear() const { return target_expression == "all-linear"; }
};

// Throws UserError for anything that is not LoRA or changes the result and is not supported
// (use_dora, lora_bias, bias, modules_to_save, fan_in_fan_out, layer_replication, ...), and for
// values that make no sense or, as in PEFT, don't act together.
AdapterConfig parse_adapter_config(const std::string& json_text, const std::string& source);
std::string adapter_config_json(const AdapterConfig& config);

// Where a module is a parameter in which the weights of a block's experts are stacked, PEFT's
// tensors have names of their own, which depend on what else is adapted (io/peft_experts.h), and
// other layouts than AdapterLayer's. "model.layers.0.self_attn.q_proj" <->
// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
enum class LoraSide { a, b };
std::string adapter_tensor_name(std::string_view module, LoraSide side);
struct AdapterTensorName {
  std::string module;
  LoraSide side;
};
std::optional<AdapterTensorName> parse_adapter_tensor_name(std::string_view name);

struct AdapterLayer {
  std::string module;
  int64_t rank = 0, in = 0, out = 0;
  int64_t copies = 1;    // one for each expert, one after the other in a and b
  std::vector<float> a;  // [copies * rank, in]
  std::vector<float> b;  // [copies * out, rank]
};

struct Adapter {
  AdapterConfig config;
  std::vector<AdapterLayer> layers;  // in name order, numbers by value: layer 2 before layer 10
  std::vector<std::string> notes;    // what was not taken as it is written; to be said once
};

// The config of a PEFT folder. UserError, which says what else the folder is (a run that isn't
// finished, a model).
AdapterConfig read_adapter_config(const std::filesystem::path& folder);

// Reads a PEFT folder. Modules of a wrapped model get the names they have without
// (io/weight_names). UserError: no adapter there, adapter_model.bin only, a pair incomplete, shapes
// that contradict the config's rank or each other, NaN or infinity, names that are not LoRA's.
Adapter load_adapter(const std::filesystem::path& folder);

// A layer to be written; a and b are borrowed.
struct AdapterLayerView {
  std::string module;
  int64_t rank = 0, in = 0, out = 0, copies = 1;
  const float* a = nullptr;
  const float* b = nullptr;
};
// Writes adapter_model.safetensors in fp32, atomically; the config is to follow.
void save_adapter(const std::filesystem::path& folder, const std::vector<AdapterLayerView>& layers);

}  // namespace hone::io
