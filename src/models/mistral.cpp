// Mistral: Llama without biases, with a sliding window that later models switch off.
#include "models/config_fields.h"
#include "models/family.h"

namespace hone::models {
namespace {

void read(JsonFields& fields, ModelConfig& config) {
  refuse_other_computations(fields);
  refuse_experts(fields);
  refuse_latent_attention(fields);
  refuse_head_norms(fields);
  read_sizes(fields, {.max_position_embeddings = 131072, .num_key_value_heads = 8}, config);
  const auto window = read_window(fields);
  check_window(config, window);
  check_layer_types(fields, config, window);
  read_rope(fields, config);
  refuse_biases(fields, {"attention_bias", "mlp_bias"}, "Mistral");
}

void write(const ModelConfig&, nlohmann::json& json) { json["sliding_window"] = nullptr; }

}  // namespace

const Family kMistral = {.architecture = "MistralForCausalLM",
                         .model_type = "mistral",
                         .read = read,
                         .write = write,
                         .block = dense_block};

}  // namespace hone::models
