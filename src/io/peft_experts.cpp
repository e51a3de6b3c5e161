#include "io/peft_experts.h"

#include <algorithm>

namespace hone::io {
namespace {

constexpr std::string_view kExperts = ".experts.";
constexpr std::string_view kGateUp = "gate_up_proj", kDown = "down_proj";

bool targets_parameter(const AdapterConfig& config, std::string_view parameter) {
  return std::any_of(config.target_parameters.begin(), config.target_parameters.end(),
                     [&](const std::string& name) {
                       return name == parameter || name.ends_with("." + std::string(parameter));
                     });
}

}  // namespace

bool is_expert_parameter(std::string_view module) {
  for (const std::string_view parameter : {kGateUp, kDown}) {
    if (module.ends_with(parameter) &&
        module.substr(0, module.size() - parameter.size()).ends_with(kExperts))
      return true;
  }
  return false;
}

std::string with_expert_parameter(std::string name, const AdapterConfig& config) {
  const bool gate_up = targets_parameter(config, kGateUp), down = targets_parameter(config, kDown);
  const auto put = [&](std::string_view before, std::string_view parameter) {
    const std::string text = std::string(kExperts) + std::string(before) + "lora_";
    const size_t at = name.find(text);
    if (at == std::string::npos) return false;
    name.replace(at + kExperts.size(), before.size(), std::string(parameter) + ".");
    return true;
  };
  if (!put("base_layer.", kGateUp)) put("", gate_up && !down ? kGateUp : kDown);
  return name;
}

std::string without_expert_parameter(const std::string& module,
                                     const std::vector<AdapterLayerView>& all) {
  if (!is_expert_parameter(module)) return module;
  const std::string experts = module.substr(0, module.rfind('.'));
  const bool both = std::count_if(all.begin(), all.end(), [&](const AdapterLayerView& other) {
                      return is_expert_parameter(other.module) &&
                             other.module.substr(0, other.module.rfind('.')) == experts;
                    }) == 2;
  return both && module.ends_with(kGateUp) ? experts + ".base_layer" : experts;
}

std::vector<float> by_expert(const std::vector<float>& stored, int64_t experts, int64_t out,
                             int64_t rank) {
  std::vector<float> b;
  b.reserve(stored.size());
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t r = 0; r < rank; ++r)
        b.push_back(stored[static_cast<size_t>((o * rank + r) * experts + e)]);
    }
  }
  return b;
}

std::vector<float> by_rank(const float* b, int64_t experts, int64_t out, int64_t rank) {
  std::vector<float> stored;
  stored.reserve(static_cast<size_t>(experts * out * rank));
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t e = 0; e < experts; ++e) stored.push_back(b[(e * out + o) * rank + r]);
    }
  }
  return stored;
}

}  // namespace hone::io
