// Llama 1 to 3.
#include "models/config_fields.h"
#include "models/family.h"

namespace hone::models {
namespace {

void read(JsonFields& fields, ModelConfig& config) {
  refuse_other_computations(fields);
  refuse_experts(fields);
  refuse_latent_attention(fields);
  refuse_head_norms(fields);
  read_sizes(fields, {.max_position_embeddings = 2048}, config);
  // Not a field of the family, but other programs write one.
  std::optional<int64_t> window;
  if (const nlohmann::json* value = fields.get("sliding_window"); value && is_on(*value)) {
    window = fields.integer("sliding_window", 1, INT64_MAX / 2);
    check_window(config, window);
  }
  check_layer_types(fields, config, window);
  read_rope(fields, config);
  config.qkv_bias = config.attention_out_bias = fields.boolean("attention_bias").value_or(false);
  config.mlp_bias = fields.boolean("mlp_bias").value_or(false);
}

void write(const ModelConfig& config, nlohmann::json& json) {
  json["attention_bias"] = config.qkv_bias;
  json["mlp_bias"] = config.mlp_bias;
}

}  // namespace

const Family kLlama = {.architecture = "LlamaForCausalLM",
                       .model_type = "llama",
                       .read = read,
                       .write = write,
                       .block = dense_block};

}  // namespace hone::models
