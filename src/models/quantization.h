// quantization_config of a config.json: in which format the weights of a folder lie.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tensor/view.h"

namespace hone {
class JsonFields;
}

namespace hone::models {

struct Quantization {
  Format format = Format::fp8_block;
  // Modules whose weights stay as they are: whole paths, or their last parts.
  std::vector<std::string> unconverted;
};

// Null: the weights are plain. UserError for methods and settings that aren't supported. What a
// method says of activations has no effect: they aren't quantised here.
std::optional<Quantization> read_quantization(JsonFields& config, const std::string& source);

// Whether the weight of a linear layer ("model.layers.0.mlp.up_proj") lies in the format.
bool is_quantized(const Quantization& q, const std::string& module);

}  // namespace hone::models
