// Mixtral: Mistral with experts in every block, whose weights of a token add to 1 and stay fp32.
#include "models/config_fields.h"
#include "models/family.h"

namespace hone::models {
namespace {

void read(JsonFields& fields, ModelConfig& config) {
  refuse_other_computations(fields);
  refuse_latent_attention(fields);
  refuse_head_norms(fields);
  refuse(fields, {"mlp_only_layers", "n_routed_experts"});
  read_sizes(fields, {.max_position_embeddings = 131072, .num_key_value_heads = 8}, config);
  const auto window = fields.integer("sliding_window", 1, INT64_MAX / 2);
  check_window(config, window);
  check_layer_types(fields, config, window);
  read_rope(fields, config);
  if (const auto noise = fields.number("router_jitter_noise", 0, 1e3); noise && *noise != 0)
    fields.fail("router_jitter_noise", "only 0 is supported");
  read_experts(fields, {.experts = 8, .per_token = 2}, config);
  config.experts->intermediate_size = config.intermediate_size;
  config.experts->normalise = true;
}

void write(const ModelConfig& config, nlohmann::json& json) {
  json["sliding_window"] = nullptr;
  json["num_local_experts"] = config.experts->experts;
  json["num_experts_per_tok"] = config.experts->per_token;
}

BlockSpec block(const ModelConfig& config, int64_t layer) {
  BlockSpec spec = expert_block(config, layer);
  auto& moe = std::get<nn::MoeSpec>(spec.mlp);
  moe.wide_weights = true;
  moe.module = "block_sparse_moe";
  moe.gate = "w1";
  moe.up = "w3";
  moe.down = "w2";
  return spec;
}

}  // namespace

const Family kMixtral = {.architecture = "MixtralForCausalLM",
                         .model_type = "mixtral",
                         .read = read,
                         .write = write,
                         .block = block,
                         .experts = true};

}  // namespace hone::models
