// Layers as parameters: registration with the store, adapters, and the bridge to ops.
#pragma once

#include <string>
#include <vector>

#include "ops/block.h"
#include "ops/head.h"
#include "ops/linear.h"

namespace hone::nn {

// A linear layer of the model: its Hugging Face path ("model.layers.0.mlp.up_proj") and its
// parameters. Or one of each expert of a block, which are adapted together: the path is PEFT's name
// of the parameter in which they are stacked ("model.layers.0.mlp.experts.gate_up_proj").
struct Linear {
  std::string path;
  int64_t in = 0;
  int64_t out = 0;
  int unit = 0;
  ops::LinearParams params;
  // Of experts, by matrix (gate and up lie side by side), then expert; params has no weight then.
  std::vector<std::vector<ParamId>> experts;
  bool router = false;  // adapted only if it is named

  int64_t copies() const {
    return experts.empty() ? 1 : static_cast<int64_t>(experts.front().size());
  }
  ParamId first_weight() const { return experts.empty() ? params.weight : experts.front().front(); }
};

struct LinearSpec {
  std::string path;
  int64_t in = 0;
  int64_t out = 0;
  bool bias = false;
  int unit = 0;
  Format format = Format::f32;
  Placement placement = Placement::replicate;
  const char* label = "linear";
};
// Registers PATH.weight [out, in] and, with bias, PATH.bias [out]; frozen.
Linear add_linear(ParamStore& store, const LinearSpec& spec);

struct LoraSpec {
  int64_t rank = 8;
  float scale = 1;  // alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023)
  float dropout = 0;
};
// Registers the adapter's A [rank, in] and B [out, rank] under PEFT's names, trainable, fp32 (f64
// where the store's base is f64). Of experts: one after the other, [copies * rank, in] and
// [copies * out, rank].
void add_lora(ParamStore& store, Linear& linear, const LoraSpec& spec);

// PEFT's name of an adapter tensor: "base_model.model." + path + ".lora_A.weight".
std::string lora_name(const std::string& path, char which);

// Registers a 1-dim parameter.
ParamId add_vector(ParamStore& store, const std::string& name, int64_t n, int unit, Format format);

// Fills a LoRA pair as PEFT does: A uniform in ±1/sqrt(in) (kaiming_uniform with a = sqrt 5), B
// zero; a function of seed, name and element.
void init_lora(const Device& device, ParamStore& store, const Linear& linear, uint64_t seed);

}  // namespace hone::nn
