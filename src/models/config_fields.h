// Fields of config.json that several families have. tag of errors: "config".
#pragma once

#include <initializer_list>
#include <optional>
#include <string_view>

#include "core/json_fields.h"
#include "models/block.h"
#include "models/config.h"

namespace hone::models {

// Neither null nor a value that says "off": false, 0, empty.
bool is_on(const nlohmann::json& value);
// Refuses fields that, where they are on, mean another computation.
void refuse(JsonFields& fields, std::initializer_list<std::string_view> names);
// The ones that no family here has: caps, scales, attention of other kinds.
void refuse_other_computations(JsonFields& fields);
// Mixtures of experts, latent attention: the same for families without.
void refuse_experts(JsonFields& fields);
void refuse_latent_attention(JsonFields& fields);
void refuse_head_norms(JsonFields& fields);
void refuse_biases(JsonFields& fields, std::initializer_list<std::string_view> names,
                   std::string_view family);

// Defaults of transformers' configuration classes.
struct SizeDefaults {
  int64_t max_position_embeddings = 0;
  int64_t num_key_value_heads = 0;  // 0: as many as attention heads
  int64_t head_dim = 0;             // 0: hidden_size / num_attention_heads
};
// Sizes of attention and of the dense MLP, the epsilon.
void read_sizes(JsonFields& fields, const SizeDefaults& defaults, ModelConfig& config);

// A sliding window is accepted where it never acts: as wide as the longest position. null: none.
void check_window(const ModelConfig& config, std::optional<int64_t> window);
// sliding_window, which has a default of 4096; null switches it off.
std::optional<int64_t> read_window(JsonFields& fields);
// The windows of Qwen: use_sliding_window switches them, from block max_window_layers on.
std::optional<int64_t> read_qwen_window(JsonFields& fields, const ModelConfig& config);
// layer_types: every entry is full attention, or has a window that never acts.
void check_layer_types(JsonFields& fields, const ModelConfig& config,
                       std::optional<int64_t> window);

// The one rotary embedding, over whole heads of head_dim: in both spellings that transformers
// writes.
void read_rope(JsonFields& fields, ModelConfig& config);

struct ExpertsDefaults {
  int64_t experts = 0;
  int64_t per_token = 0;
  int64_t intermediate_size = 0;
};
// How many experts there are (num_experts, or num_local_experts as transformers 5 writes it) and a
// token takes, in every block. Checks what is said of the router's own loss, which is off.
void read_experts(JsonFields& fields, const ExpertsDefaults& defaults, ModelConfig& config);

// Grouped-query attention as the config has it.
nn::GqaSpec attention_of(const ModelConfig& config);
// A block of that and of the gated MLP.
BlockSpec dense_block(const ModelConfig& config, int64_t layer);
// The same with experts, their scores by softmax, where the block has them.
BlockSpec expert_block(const ModelConfig& config, int64_t layer);

}  // namespace hone::models
