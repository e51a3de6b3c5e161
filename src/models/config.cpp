#include "models/config.h"

#include <algorithm>
#include <array>
#include <fstream>

#include "core/error.h"
#include "core/json_fields.h"

namespace hone::models {
namespace {

constexpr std::string_view kTag = "config";
constexpr int64_t kMaxTokenId = INT32_MAX;
constexpr uintmax_t kMaxConfigBytes = 16u << 20;

// What differs between families: the defaults of transformers' configuration classes.
struct Family {
  std::string_view architecture;
  std::string_view model_type;
  int64_t max_position_embeddings;
  int64_t num_key_value_heads;  // 0: as many as attention heads
  int64_t head_dim;             // 0: hidden_size / num_attention_heads
};
constexpr std::array<Family, 4> kFamilies = {{
    {"LlamaForCausalLM", "llama", 2048, 0, 0},
    {"MistralForCausalLM", "mistral", 131072, 8, 0},
    {"Qwen2ForCausalLM", "qwen2", 32768, 32, 0},
    {"Qwen3ForCausalLM", "qwen3", 32768, 32, 128},
}};
constexpr std::string_view kSupported =
    "supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM";

const Family& find_family(JsonFields& fields) {
  std::string architecture;
  if (const auto names = fields.texts("architectures"); names && !names->empty()) {
    if (names->size() > 1) fields.fail("architectures", "it must name one architecture");
    architecture = names->front();
  }
  const std::string model_type = fields.text("model_type").value_or("");
  if (architecture.empty() && model_type.empty()) {
    fields.fail("architectures", fmt::format("the model's kind is not known; {}", kSupported));
  }
  for (const Family& family : kFamilies) {
    if (architecture.empty() ? model_type == family.model_type
                             : architecture == family.architecture) {
      if (!model_type.empty() && model_type != family.model_type) {
        fields.fail("model_type", fmt::format("it contradicts architectures, which names {}; {}",
                                              architecture, kSupported));
      }
      return family;
    }
  }
  fields.fail(architecture.empty() ? "model_type" : "architectures",
              fmt::format("this kind of model is not supported; {}", kSupported));
}

// Neither null nor a value that says "off".
bool is_on(const nlohmann::json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

// Fields that no supported family has and that, where they are on, mean another computation.
void refuse_other_computations(JsonFields& fields) {
  for (const char* name : {"attn_logit_softcapping",
                           "final_logit_softcapping",
                           "logit_softcapping",
                           "query_pre_attn_scalar",
                           "num_experts",
                           "num_local_experts",
                           "n_routed_experts",
                           "qk_layernorm",
                           "use_qk_norm",
                           "no_rope_layers",
                           "clip_qkv",
                           "is_encoder_decoder",
                           "add_cross_attention",
                           "per_layer_config",
                           "rope_local_base_freq",
                           "attention_dropout",
                           "alibi",
                           "mlp_only_layers",
                           "kv_lora_rank",
                           "attention_sink"}) {
    const nlohmann::json* value = fields.get(name);
    if (value && is_on(*value)) {
      fields.fail(
          name, "it changes what the model computes and is not supported; use a model without it");
    }
  }
  for (const char* name : {"embedding_multiplier", "attention_multiplier", "residual_multiplier",
                           "logits_scaling", "logit_scale", "partial_rotary_factor"}) {
    const nlohmann::json* value = fields.get(name);
    if (value && !(value->is_number() && value->get<double>() == 1)) {
      fields.fail(name, "only 1 is supported, since another value changes what the model computes");
    }
  }
  for (const char* name : {"hidden_act", "hidden_activation"}) {
    const auto act = fields.text(name);
    if (act && *act != "silu" && *act != "swish") {
      fields.fail(name, "this activation is not supported; only silu is");
    }
  }
}

// Everything that transformers writes into such a file and that has no effect on logits and
// gradients.
// clang-format off
constexpr std::string_view kHarmless[] = {
    "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset",
    "_from_model_config", "attn_implementation", "transformers_version", "use_cache",
    "pretraining_tp", "pad_token_id", "sep_token_id", "decoder_start_token_id",
    "output_attentions", "output_hidden_states", "return_dict", "return_dict_in_generate",
    "chunk_size_feed_forward", "torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads",
    "cross_attention_hidden_size", "id2label", "label2id", "num_labels", "problem_type",
    "finetuning_task", "task_specific_params", "tokenizer_class", "prefix", "is_decoder",
    "tie_encoder_decoder", "keys_to_ignore_at_inference", "do_sample", "temperature", "top_k",
    "top_p", "typical_p", "min_length", "max_length", "num_beams", "num_beam_groups",
    "num_return_sequences", "diversity_penalty", "repetition_penalty", "length_penalty",
    "encoder_no_repeat_ngram_size", "no_repeat_ngram_size", "bad_words_ids",
    "begin_suppress_tokens", "suppress_tokens", "early_stopping", "forced_bos_token_id",
    "forced_eos_token_id", "exponential_decay_length_penalty", "remove_invalid_values",
    "output_scores", "unsloth_version", "unsloth_fixed"};
// clang-format on

// A sliding window is accepted where it never acts: as wide as the longest position.
void check_window(const ModelConfig& config, std::optional<int64_t> window) {
  if (!window || *window >= config.max_position_embeddings) return;
  user_error(kTag,
             "{}: sliding_window is {}, below max_position_embeddings {}; sliding windows are not "
             "supported. If no sequence of yours is longer than {} tokens the window never acts: "
             "set sliding_window to null in a copy of config.json",
             config.architecture, *window, config.max_position_embeddings, *window);
}

void read_attention_pattern(JsonFields& fields, const Family& family, ModelConfig& config) {
  std::optional<int64_t> window;
  if (family.model_type == "mistral") {
    window = fields.integer("sliding_window", 1, INT64_MAX / 2);
    // An absent field has the default 4096; null switches the window off.
    if (!fields.present("sliding_window")) window = 4096;
    check_window(config, window);
  } else if (family.model_type == "qwen2" || family.model_type == "qwen3") {
    const bool use = fields.boolean("use_sliding_window").value_or(false);
    const int64_t full_layers = fields.integer("max_window_layers", 0, INT32_MAX).value_or(28);
    fields.ignore({"sliding_window"});
    if (use) {
      window = fields.integer("sliding_window", 1, INT64_MAX / 2);
      if (!fields.present("sliding_window")) window = 4096;
      if (full_layers < config.num_hidden_layers) check_window(config, window);
    }
  } else if (const nlohmann::json* value = fields.get("sliding_window"); value && is_on(*value)) {
    check_window(config, fields.integer("sliding_window", 1, INT64_MAX / 2));
  }
  if (const auto types = fields.texts("layer_types")) {
    if (static_cast<int64_t>(types->size()) != config.num_hidden_layers) {
      fields.fail("layer_types", fmt::format("it has {} entries, but num_hidden_layers is {}",
                                             types->size(), config.num_hidden_layers));
    }
    for (size_t i = 0; i < types->size(); ++i) {
      const bool wide_window =
          (*types)[i] == "sliding_attention" && window && *window >= config.max_position_embeddings;
      if ((*types)[i] != "full_attention" && !wide_window) {
        fields.fail("layer_types", fmt::format("entry {} is {}, but only full_attention is "
                                               "supported",
                                               i, shown((*types)[i])));
      }
    }
  }
}

void read_rope(JsonFields& fields, const std::string& source, ModelConfig& config) {
  const double kLargest = 1e30;
  config.rope_theta = fields.number("rope_theta", 1e-6, kLargest).value_or(10000);
  const auto top_original = fields.integer("original_max_position_embeddings", 1, INT64_MAX / 2);
  std::string name = "rope_parameters";
  const nlohmann::json* object = fields.object(name);
  if (const nlohmann::json* scaling = fields.object("rope_scaling"); scaling && !scaling->empty()) {
    object = scaling;
    name = "rope_scaling";
  }
  if (!object || object->empty()) return;
  // One entry a kind of layer, of which this engine has one.
  bool nested = std::all_of(object->begin(), object->end(),
                            [](const nlohmann::json& v) { return v.is_object() || v.is_null(); });
  if (nested) {
    const auto full = object->find("full_attention");
    for (const auto& [key, value] : object->items()) {
      if (key != "full_attention" && !value.is_null()) {
        fields.fail(name, fmt::format("{} has its own rotary embedding, which is not supported",
                                      shown(key)));
      }
    }
    if (full == object->end() || full->is_null()) return;
    object = &*full;
    name += ".full_attention";
  }
  JsonFields rope(*object, kTag, source, name + ".");
  config.rope_theta = rope.number("rope_theta", 1e-6, kLargest).value_or(config.rope_theta);
  if (const auto part = rope.number("partial_rotary_factor", 0, 1); part && *part != 1) {
    rope.fail("partial_rotary_factor", "only 1 is supported");
  }
  std::optional<std::string> type = rope.text("rope_type");
  const std::optional<std::string> old_type = rope.text("type");
  const char* type_name = type ? "rope_type" : "type";
  if (!type) type = old_type;
  RopeScaling& scaling = config.rope_scaling;
  if (!type || *type == "default") {
    scaling.type = RopeScaling::Type::none;
  } else if (*type == "linear") {
    scaling.type = RopeScaling::Type::linear;
  } else if (*type == "llama3") {
    scaling.type = RopeScaling::Type::llama3;
  } else {
    rope.fail(type_name, "this rotary embedding is not supported; default, linear and llama3 are");
  }
  if (scaling.type != RopeScaling::Type::none) {
    const auto factor = rope.number("factor", 1e-6, 1e6);
    if (!factor) rope.fail("factor", fmt::format("rope type {} needs a number", *type));
    scaling.factor = static_cast<float>(*factor);
  }
  if (scaling.type == RopeScaling::Type::llama3) {
    const auto low = rope.number("low_freq_factor", 1e-6, 1e6);
    const auto high = rope.number("high_freq_factor", 1e-6, 1e6);
    const auto original = rope.integer("original_max_position_embeddings", 1, INT64_MAX / 2);
    if (!low) rope.fail("low_freq_factor", "rope type llama3 needs a number");
    if (!high) rope.fail("high_freq_factor", "rope type llama3 needs a number");
    if (*high <= *low) {
      rope.fail("high_freq_factor",
                fmt::format("it must be greater than low_freq_factor, which is {}", *low));
    }
    scaling.low_freq_factor = static_cast<float>(*low);
    scaling.high_freq_factor = static_cast<float>(*high);
    scaling.original_max_position_embeddings =
        top_original.value_or(original.value_or(config.max_position_embeddings));
  }
  for (std::string& unknown : rope.unknown()) config.unknown_fields.push_back(std::move(unknown));
}

DType read_dtype(JsonFields& fields) {
  const char* name = fields.has("dtype") ? "dtype" : "torch_dtype";
  fields.ignore({"dtype", "torch_dtype"});
  const std::optional<std::string> text = fields.text(name);
  if (!text) return DType::f32;
  const std::string_view type =
      text->starts_with("torch.") ? std::string_view(*text).substr(6) : std::string_view(*text);
  if (type == "float32" || type == "float") return DType::f32;
  if (type == "bfloat16") return DType::bf16;
  if (type == "float16" || type == "half") return DType::f16;
  fields.fail(name, "supported types are float32, bfloat16 and float16");
}

// nullopt: the field is absent or null.
std::optional<std::vector<int32_t>> read_eos(JsonFields& fields) {
  const nlohmann::json* value = fields.get("eos_token_id");
  if (!value) return std::nullopt;
  std::vector<int32_t> ids;
  if (value->is_array()) {
    const std::vector<int64_t> list = *fields.integers("eos_token_id", 0, kMaxTokenId);
    ids.assign(list.begin(), list.end());
  } else {
    ids.push_back(static_cast<int32_t>(fields.required_integer("eos_token_id", 0, kMaxTokenId)));
  }
  return ids;
}

void read_sizes(JsonFields& fields, const Family& family, ModelConfig& config) {
  config.vocab_size = fields.required_integer("vocab_size", 1, kMaxTokenId);
  config.hidden_size = fields.required_integer("hidden_size", 1, 1 << 20);
  config.intermediate_size = fields.required_integer("intermediate_size", 1, 1 << 24);
  config.num_hidden_layers = fields.required_integer("num_hidden_layers", 1, 100000);
  config.num_attention_heads = fields.required_integer("num_attention_heads", 1, 1 << 16);
  config.max_position_embeddings = fields.integer("max_position_embeddings", 1, INT64_MAX / 2)
                                       .value_or(family.max_position_embeddings);
  const bool kv_null = fields.present("num_key_value_heads") && !fields.has("num_key_value_heads");
  const int64_t kv_default = kv_null || family.num_key_value_heads == 0
                                 ? config.num_attention_heads
                                 : family.num_key_value_heads;
  config.num_key_value_heads =
      fields.integer("num_key_value_heads", 1, 1 << 16).value_or(kv_default);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fields.fail("num_key_value_heads",
                fmt::format("its value, {}, must divide num_attention_heads, which is {}",
                            config.num_key_value_heads, config.num_attention_heads));
  }
  if (const auto head_dim = fields.integer("head_dim", 1, 1 << 16)) {
    config.head_dim = *head_dim;
  } else if (family.head_dim != 0) {
    config.head_dim = family.head_dim;
  } else {
    if (config.hidden_size % config.num_attention_heads != 0) {
      fields.fail("hidden_size",
                  fmt::format("without head_dim it must be divisible by num_attention_heads, "
                              "which is {}",
                              config.num_attention_heads));
    }
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  if (config.head_dim % 2 != 0) {
    user_error(kTag,
               "{}: the size of a head is {} (head_dim, or hidden_size / num_attention_heads); "
               "rotary embeddings need an even size",
               config.architecture, config.head_dim);
  }
  if (config.head_dim * config.num_attention_heads > (int64_t{1} << 24)) {
    fields.fail("num_attention_heads",
                fmt::format("with a head size of {} that is more than {} features", config.head_dim,
                            int64_t{1} << 24));
  }
}

std::string read_whole(const std::filesystem::path& path) {
  std::error_code code;
  const uintmax_t size = std::filesystem::file_size(path, code);
  if (code) user_error(kTag, "cannot read {}: {}", path.string(), code.message());
  if (size > kMaxConfigBytes) {
    user_error(kTag, "{} has {} bytes; a configuration has at most {}", path.string(), size,
               kMaxConfigBytes);
  }
  std::ifstream in(path, std::ios::binary);
  std::string text(size, '\0');
  in.read(text.data(), static_cast<std::streamsize>(size));
  if (!in) user_error(kTag, "cannot read {}", path.string());
  return text;
}

}  // namespace

ModelConfig parse_model_config(const std::string& json_text, const std::string& source) {
  const nlohmann::json json = parse_json_object(json_text, kTag, source);
  JsonFields fields(json, kTag, source);
  const Family& family = find_family(fields);
  ModelConfig config;
  config.architecture = family.architecture;
  config.model_type = family.model_type;
  refuse_other_computations(fields);
  read_sizes(fields, family, config);
  read_attention_pattern(fields, family, config);
  read_rope(fields, source, config);
  config.rms_norm_eps = fields.number("rms_norm_eps", 0, 1).value_or(1e-6);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings").value_or(false);
  config.initializer_range = fields.number("initializer_range", 0, 1e3).value_or(0.02);

  const bool attention_bias = fields.boolean("attention_bias").value_or(false);
  const bool mlp_bias = fields.boolean("mlp_bias").value_or(false);
  if (family.model_type == "qwen2") {
    config.qkv_bias = true;
  } else if (family.model_type == "mistral") {
    if (attention_bias) fields.fail("attention_bias", "Mistral models have no biases");
  } else {
    config.qkv_bias = config.attention_out_bias = attention_bias;
  }
  if (family.model_type == "llama") {
    config.mlp_bias = mlp_bias;
  } else if (mlp_bias) {
    fields.fail("mlp_bias", fmt::format("{} models have no such biases", family.model_type));
  }
  config.qk_norm = family.model_type == "qwen3";

  config.dtype = read_dtype(fields);
  config.quantization = read_quantization(fields, source);
  config.eos_token_ids = read_eos(fields).value_or(std::vector<int32_t>{});
  if (const auto bos = fields.integer("bos_token_id", -1, kMaxTokenId); bos && *bos >= 0) {
    config.bos_token_id = static_cast<int32_t>(*bos);
  }
  for (const std::string_view name : kHarmless) fields.ignore({name});
  for (std::string& name : fields.unknown()) config.unknown_fields.push_back(std::move(name));
  return config;
}

ModelConfig load_model_config(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::error_code code;
  if (!fs::is_directory(folder, code)) {
    user_error(kTag, "{} is not a folder; give the path of a Hugging Face model folder",
               folder.string());
  }
  const fs::path path = folder / "config.json";
  if (!fs::exists(path, code)) {
    user_error(kTag, "{} has no config.json; give the path of a Hugging Face model folder",
               folder.string());
  }
  ModelConfig config = parse_model_config(read_whole(path), path.string());
  if (auto ids = generation_eos_ids(folder)) config.eos_token_ids = std::move(*ids);
  return config;
}

std::optional<std::vector<int32_t>> generation_eos_ids(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "generation_config.json";
  std::error_code code;
  if (!std::filesystem::exists(path, code)) return std::nullopt;
  const nlohmann::json json = parse_json_object(read_whole(path), kTag, path.string());
  JsonFields fields(json, kTag, path.string());
  return read_eos(fields);
}

std::string model_config_json(const ModelConfig& config) {
  nlohmann::json json = {
      {"architectures", {config.architecture}},
      {"model_type", config.model_type},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_attention_heads", config.num_attention_heads},
      {"num_key_value_heads", config.num_key_value_heads},
      {"head_dim", config.head_dim},
      {"max_position_embeddings", config.max_position_embeddings},
      {"rms_norm_eps", config.rms_norm_eps},
      {"rope_theta", config.rope_theta},
      {"hidden_act", "silu"},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"initializer_range", config.initializer_range},
      {"attention_dropout", 0.0},
      {"use_cache", true},
  };
  json["rope_scaling"] = nullptr;
  const RopeScaling& scaling = config.rope_scaling;
  // Written so that the fp32 value reads back, without the digits of its conversion to double.
  auto number = [](float value) { return nlohmann::json::parse(fmt::format("{}", value)); };
  if (scaling.type == RopeScaling::Type::linear) {
    json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", number(scaling.factor)}};
  } else if (scaling.type == RopeScaling::Type::llama3) {
    json["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", number(scaling.factor)},
        {"low_freq_factor", number(scaling.low_freq_factor)},
        {"high_freq_factor", number(scaling.high_freq_factor)},
        {"original_max_position_embeddings", scaling.original_max_position_embeddings}};
  }
  if (config.model_type == "llama" || config.model_type == "qwen3") {
    json["attention_bias"] = config.qkv_bias;
  }
  if (config.model_type == "llama") json["mlp_bias"] = config.mlp_bias;
  if (config.model_type != "llama") json["sliding_window"] = nullptr;
  if (config.model_type == "qwen2" || config.model_type == "qwen3") {
    json["use_sliding_window"] = false;
    json["max_window_layers"] = config.num_hidden_layers;
  }
  switch (config.dtype) {
    case DType::bf16:
      json["torch_dtype"] = "bfloat16";
      break;
    case DType::f16:
      json["torch_dtype"] = "float16";
      break;
    default:
      json["torch_dtype"] = "float32";
      break;
  }
  json["bos_token_id"] = nullptr;
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  json["eos_token_id"] = nullptr;
  if (config.eos_token_ids.size() == 1) {
    json["eos_token_id"] = config.eos_token_ids.front();
  } else if (!config.eos_token_ids.empty()) {
    json["eos_token_id"] = config.eos_token_ids;
  }
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace hone::models
