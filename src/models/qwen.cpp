// Qwen 2, 2.5 and 3, dense. Qwen 2 has biases on q, k and v; Qwen 3 has norms of heads instead, and
// biases where its config says so.
#include "models/config_fields.h"
#include "models/family.h"

namespace hone::models {
namespace {

void read_common(JsonFields& fields, const SizeDefaults& defaults, ModelConfig& config) {
  refuse_other_computations(fields);
  refuse_experts(fields);
  refuse_latent_attention(fields);
  refuse_head_norms(fields);
  read_sizes(fields, defaults, config);
  check_layer_types(fields, config, read_qwen_window(fields, config));
  read_rope(fields, config);
  refuse_biases(fields, {"mlp_bias"}, config.family->model_type);
}

void read_qwen2(JsonFields& fields, ModelConfig& config) {
  read_common(fields, {.max_position_embeddings = 32768, .num_key_value_heads = 32}, config);
  fields.boolean("attention_bias");  // has no effect
  config.qkv_bias = true;
}

void read_qwen3(JsonFields& fields, ModelConfig& config) {
  read_common(fields,
              {.max_position_embeddings = 32768, .num_key_value_heads = 32, .head_dim = 128},
              config);
  config.qkv_bias = config.attention_out_bias = fields.boolean("attention_bias").value_or(false);
  config.qk_norm = true;
}

void write_qwen2(const ModelConfig& config, nlohmann::json& json) {
  json["sliding_window"] = nullptr;
  json["use_sliding_window"] = false;
  json["max_window_layers"] = config.num_hidden_layers;
}

void write_qwen3(const ModelConfig& config, nlohmann::json& json) {
  write_qwen2(config, json);
  json["attention_bias"] = config.qkv_bias;
}

}  // namespace

const Family kQwen2 = {.architecture = "Qwen2ForCausalLM",
                       .model_type = "qwen2",
                       .read = read_qwen2,
                       .write = write_qwen2,
                       .block = dense_block};

const Family kQwen3 = {.architecture = "Qwen3ForCausalLM",
                       .model_type = "qwen3",
                       .read = read_qwen3,
                       .write = write_qwen3,
                       .block = dense_block};

}  // namespace hone::models
