// How PEFT 0.21 stores adapters of experts, whose weights are stacked in two parameters of a module
// ("...mlp.experts", gate_up_proj and down_proj). Legend: E experts, R rank.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/peft.h"

namespace hone::io {

// "model.layers.0.mlp.experts.gate_up_proj", or of down_proj.
bool is_expert_parameter(std::string_view module);

// The name of an adapter's tensor with the parameter in it:
// "...experts.base_layer.lora_A.weight" -> "...experts.gate_up_proj.lora_A.weight",
// "...experts.lora_A.weight" -> "...experts.down_proj.lora_A.weight", or of the one parameter that
// the config targets. Other names stay.
std::string with_expert_parameter(std::string name, const AdapterConfig& config);
// And back, among the modules that an adapter has.
std::string without_expert_parameter(const std::string& module,
                                     const std::vector<AdapterLayerView>& all);

// B as it is stored, [out, R * E] where column r * E + e is rank r of expert e, to one matrix
// [out, R] after the other. And back.
std::vector<float> by_expert(const std::vector<float>& stored, int64_t experts, int64_t out,
                             int64_t rank);
std::vector<float> by_rank(const float* b, int64_t experts, int64_t out, int64_t rank);

}  // namespace hone::io
