// Qwen 2 and 3 with experts, in blocks that the config chooses. Qwen 2 has a shared expert beside
// them, scaled by a gate of its own.
#include <algorithm>

#include "models/config_fields.h"
#include "models/family.h"

namespace hone::models {
namespace {

void read_sparse_blocks(JsonFields& fields, ModelConfig& config) {
  const int64_t layers = config.num_hidden_layers;
  const int64_t step = fields.integer("decoder_sparse_step", 1, 100000).value_or(1);
  const auto dense = fields.integers("mlp_only_layers", 0, layers - 1);
  for (int64_t i = 0; i < layers; ++i) {
    config.experts->sparse[static_cast<size_t>(i)] =
        (i + 1) % step == 0 &&
        !(dense && std::find(dense->begin(), dense->end(), i) != dense->end());
  }
}

void read_common(JsonFields& fields, const SizeDefaults& sizes, const ExpertsDefaults& experts,
                 ModelConfig& config) {
  refuse_other_computations(fields);
  refuse_latent_attention(fields);
  refuse_head_norms(fields);
  refuse(fields, {"n_routed_experts"});
  read_sizes(fields, sizes, config);
  check_layer_types(fields, config, read_qwen_window(fields, config));
  read_rope(fields, config);
  refuse_biases(fields, {"mlp_bias"}, config.family->model_type);
  read_experts(fields, experts, config);
  config.experts->intermediate_size =
      fields.integer("moe_intermediate_size", 1, 1 << 24).value_or(experts.intermediate_size);
  config.experts->normalise = fields.boolean("norm_topk_prob").value_or(false);
  read_sparse_blocks(fields, config);
}

void read_qwen2_moe(JsonFields& fields, ModelConfig& config) {
  read_common(fields, {.max_position_embeddings = 32768, .num_key_value_heads = 16},
              {.experts = 60, .per_token = 4, .intermediate_size = 1408}, config);
  config.experts->shared_intermediate_size =
      fields.integer("shared_expert_intermediate_size", 1, 1 << 24).value_or(5632);
  config.qkv_bias = fields.boolean("qkv_bias").value_or(true);
  fields.boolean("attention_bias");  // has no effect
}

void read_qwen3_moe(JsonFields& fields, ModelConfig& config) {
  read_common(fields, {.max_position_embeddings = 32768, .num_key_value_heads = 4},
              {.experts = 128, .per_token = 8, .intermediate_size = 768}, config);
  config.qkv_bias = config.attention_out_bias = fields.boolean("attention_bias").value_or(false);
  config.qk_norm = true;
}

void write_common(const ModelConfig& config, nlohmann::json& json) {
  json["sliding_window"] = nullptr;
  json["use_sliding_window"] = false;
  json["max_window_layers"] = config.num_hidden_layers;
  const ExpertsConfig& experts = *config.experts;
  json["num_experts"] = experts.experts;
  json["num_experts_per_tok"] = experts.per_token;
  json["moe_intermediate_size"] = experts.intermediate_size;
  json["norm_topk_prob"] = experts.normalise;
  json["decoder_sparse_step"] = 1;
  json["mlp_only_layers"] = nlohmann::json::array();
  for (size_t i = 0; i < experts.sparse.size(); ++i) {
    if (!experts.sparse[i]) json["mlp_only_layers"].push_back(i);
  }
}

void write_qwen2_moe(const ModelConfig& config, nlohmann::json& json) {
  write_common(config, json);
  json["shared_expert_intermediate_size"] = config.experts->shared_intermediate_size;
  json["qkv_bias"] = config.qkv_bias;
}

void write_qwen3_moe(const ModelConfig& config, nlohmann::json& json) {
  write_common(config, json);
  json["attention_bias"] = config.qkv_bias;
}

}  // namespace

const Family kQwen2Moe = {.architecture = "Qwen2MoeForCausalLM",
                          .model_type = "qwen2_moe",
                          .read = read_qwen2_moe,
                          .write = write_qwen2_moe,
                          .block = expert_block,
                          .experts = true};

const Family kQwen3Moe = {.architecture = "Qwen3MoeForCausalLM",
                          .model_type = "qwen3_moe",
                          .read = read_qwen3_moe,
                          .write = write_qwen3_moe,
                          .block = expert_block,
                          .experts = true};

}  // namespace hone::models
