// DeepSeek-V2 and V3 (R1): latent attention. Blocks of experts are not supported: models whose
// blocks are all dense are.
#include "models/config_fields.h"
#include "models/family.h"

namespace hone::models {
namespace {

// transformers' yarn_apply_mscale.
double score_scale(const RopeScaling& scaling) {
  const double m = yarn_mscale(static_cast<double>(scaling.factor), scaling.mscale_all_dim);
  return scaling.type == RopeScaling::Type::yarn && scaling.mscale_all_dim != 0 ? m * m : 1;
}

void read_latent(JsonFields& fields, ModelConfig& config) {
  constexpr int64_t kMost = 1 << 20, kMostHead = 1 << 16;
  LatentConfig& latent = config.latent.emplace();
  latent.query_rank = fields.integer("q_lora_rank", 1, kMost).value_or(0);
  if (!fields.present("q_lora_rank")) latent.query_rank = 1536;
  latent.kv_rank = fields.integer("kv_lora_rank", 1, kMost).value_or(512);
  latent.nope_dim = fields.integer("qk_nope_head_dim", 1, kMostHead).value_or(128);
  latent.rope_dim = fields.integer("qk_rope_head_dim", 2, kMostHead).value_or(64);
  latent.value_dim = fields.integer("v_head_dim", 1, kMostHead).value_or(128);
  if (latent.rope_dim % 2 != 0)
    fields.fail("qk_rope_head_dim", "rotary embeddings need an even size");
  constexpr int64_t kWidest = 576;  // of the attention kernels
  if (latent.nope_dim + latent.rope_dim > kWidest)
    fields.fail("qk_nope_head_dim", fmt::format("with qk_rope_head_dim {} a head has more than {} "
                                                "features",
                                                latent.rope_dim, kWidest));
  if (latent.value_dim > kWidest)
    fields.fail("v_head_dim", fmt::format("at most {} are supported", kWidest));
  fields.ignore({"qk_head_dim", "head_dim"});
}

// first_dense: the family's default of first_k_dense_replace.
void read_deepseek(JsonFields& fields, int64_t first_dense, ModelConfig& config) {
  refuse_other_computations(fields);
  refuse_head_norms(fields);
  refuse(fields, {"mlp_bias", "sliding_window"});
  read_latent(fields, config);
  read_sizes(fields, {.max_position_embeddings = 4096, .head_dim = config.latent->rope_dim},
             config);
  if (config.num_key_value_heads != config.num_attention_heads)
    fields.fail("num_key_value_heads", "latent attention has as many as num_attention_heads");
  config.head_dim = config.latent->rope_dim;  // as transformers has it
  const int64_t dense = fields.integer("first_k_dense_replace", 0, INT32_MAX).value_or(first_dense);
  if (dense < config.num_hidden_layers)
    fields.fail(
        "first_k_dense_replace",
        fmt::format("experts of this family are not supported, and the last {} of {} blocks "
                    "have them; use a model without",
                    config.num_hidden_layers - dense, config.num_hidden_layers));
  // What is said of experts that no block has.
  fields.ignore({"n_routed_experts", "n_shared_experts", "num_experts_per_tok",
                 "moe_intermediate_size", "n_group", "topk_group", "topk_method", "scoring_func",
                 "norm_topk_prob", "routed_scaling_factor", "moe_layer_freq", "aux_loss_alpha",
                 "seq_aux", "ep_size", "router_aux_loss_coef", "output_router_logits",
                 "num_nextn_predict_layers", "mlp_layer_types"});
  read_rope(fields, config);
  config.attention_out_bias = fields.boolean("attention_bias").value_or(false);
}

void read_v2(JsonFields& fields, ModelConfig& config) { read_deepseek(fields, 0, config); }

void read_v3(JsonFields& fields, ModelConfig& config) {
  read_deepseek(fields, 3, config);
  config.latent->interleaved = fields.boolean("rope_interleave").value_or(true);
}

void write_v2(const ModelConfig& config, nlohmann::json& json) {
  const LatentConfig& latent = *config.latent;
  json["q_lora_rank"] = nullptr;
  if (latent.query_rank != 0) json["q_lora_rank"] = latent.query_rank;
  json["kv_lora_rank"] = latent.kv_rank;
  json["qk_nope_head_dim"] = latent.nope_dim;
  json["qk_rope_head_dim"] = latent.rope_dim;
  json["v_head_dim"] = latent.value_dim;
  json["attention_bias"] = config.attention_out_bias;
  json["first_k_dense_replace"] = config.num_hidden_layers;
}

void write_v3(const ModelConfig& config, nlohmann::json& json) {
  write_v2(config, json);
  json["rope_interleave"] = config.latent->interleaved;
}

BlockSpec block(const ModelConfig& config, int64_t layer) {
  BlockSpec spec = dense_block(config, layer);
  const LatentConfig& latent = *config.latent;
  spec.mixer = nn::MlaSpec{.hidden = config.hidden_size,
                           .heads = config.num_attention_heads,
                           .query_rank = latent.query_rank,
                           .kv_rank = latent.kv_rank,
                           .nope_dim = latent.nope_dim,
                           .rope_dim = latent.rope_dim,
                           .value_dim = latent.value_dim,
                           .bias = config.attention_out_bias,
                           .interleaved = latent.interleaved,
                           .score_scale = score_scale(config.ropes.front().scaling)};
  return spec;
}

}  // namespace

const Family kDeepseekV2 = {.architecture = "DeepseekV2ForCausalLM",
                            .model_type = "deepseek_v2",
                            .read = read_v2,
                            .write = write_v2,
                            .block = block,
                            .experts = true};
const Family kDeepseekV3 = {.architecture = "DeepseekV3ForCausalLM",
                            .model_type = "deepseek_v3",
                            .read = read_v3,
                            .write = write_v3,
                            .block = block,
                            .experts = true};

}  // namespace hone::models
