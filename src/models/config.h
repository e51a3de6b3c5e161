// What a decoder is made of, as read from a Hugging Face config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "models/quantization.h"

namespace hone::models {

// Frequencies are computed in fp32 as transformers does. llama3: "rope_type": "llama3" of Llama 3.1
// and later. linear: positions divided by factor. yarn: Peng et al., 2023, arXiv:2309.00071.
struct RopeScaling {
  enum class Type { none, linear, llama3, yarn } type = Type::none;
  float factor = 1;
  // llama3
  float low_freq_factor = 1;
  float high_freq_factor = 4;
  // yarn: rotations over the original length below and above which a frequency is divided by the
  // factor or kept; whether the bounds are whole frequencies; what cos and sin are multiplied by
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;
  double attention_factor = 1;
  double mscale_all_dim = 0;  // DeepSeek scales its scores with it
  // both
  int64_t original_max_position_embeddings = 8192;
};

struct RopeSpec {
  int64_t dim = 0;  // of a head, from its first number on
  double theta = 10000;
  RopeScaling scaling;
};

// A mixture of experts.
struct ExpertsConfig {
  int64_t experts = 0;
  int64_t per_token = 0;
  int64_t intermediate_size = 0;         // of an expert
  int64_t shared_intermediate_size = 0;  // of the one that every token takes; 0: none
  bool normalise = false;                // the weights of a token's experts add to 1
  std::vector<bool> sparse;              // by block: experts, or a dense MLP
};

// yarn's mscale: 0.1 mscale ln(factor) + 1, or 1 for a factor up to 1.
double yarn_mscale(double factor, double mscale);

// Sizes of multi-head latent attention (nn/mla.h).
struct LatentConfig {
  int64_t query_rank = 0;  // 0: queries have no latent
  int64_t kv_rank = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  int64_t value_dim = 0;
  bool interleaved = true;
};

struct Family;  // models/family.h

struct ModelConfig {
  const Family* family = nullptr;
  std::string architecture;  // "Qwen2ForCausalLM" ...
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  std::vector<RopeSpec> ropes;  // the kinds of rotary embedding that its blocks use
  bool tie_word_embeddings = false;
  bool qkv_bias = false;            // q_proj, k_proj, v_proj
  bool attention_out_bias = false;  // o_proj
  bool mlp_bias = false;            // gate_proj, up_proj, down_proj
  bool qk_norm = false;             // RMSNorm over head_dim on q and k, before RoPE (Qwen3)
  std::optional<ExpertsConfig> experts;
  std::optional<LatentConfig> latent;
  double initializer_range = 0.02;
  DType dtype = DType::f32;  // of the file's plain weights, as config.json says; missing means fp32
  std::optional<Quantization> quantization;
  std::vector<int32_t> eos_token_ids;  // generation_config.json, else config.json; may be empty
  std::optional<int32_t> bos_token_id;
  std::vector<std::string>
      unknown_fields;  // of config.json, not known to be harmless; to be said once
};

// Parses and checks a config.json text. source is named in errors. Throws UserError for an
// architecture, or a field that would change the result and is not supported (a rope type, a
// sliding window that is on, an activation, ...), for missing fields and for values that contradict
// each other. Reads both spellings that transformers writes (rope_theta + rope_scaling, or
// rope_parameters; torch_dtype or dtype).
ModelConfig parse_model_config(const std::string& json_text, const std::string& source);

// Reads FOLDER/config.json and, where present, FOLDER/generation_config.json (eos ids only).
ModelConfig load_model_config(const std::filesystem::path& folder);
// eos_token_id of FOLDER/generation_config.json; null where there is none.
std::optional<std::vector<int32_t>> generation_eos_ids(const std::filesystem::path& folder);

// The config.json text of a model, as transformers writes it (for models made by hone itself).
std::string model_config_json(const ModelConfig& config);

}  // namespace hone::models
