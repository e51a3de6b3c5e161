#include "models/config.h"

#include <fstream>

#include "core/error.h"
#include "core/json_fields.h"
#include "models/family.h"

namespace hone::models {
namespace {

constexpr std::string_view kTag = "config";
constexpr int64_t kMaxTokenId = INT32_MAX;
constexpr uintmax_t kMaxConfigBytes = 16u << 20;

const Family& find_family(JsonFields& fields) {
  std::string architecture;
  if (const auto names = fields.texts("architectures"); names && !names->empty()) {
    if (names->size() > 1) fields.fail("architectures", "it must name one architecture");
    architecture = names->front();
  }
  const std::string supported = "supported are " + supported_architectures();
  const std::string model_type = fields.text("model_type").value_or("");
  if (architecture.empty() && model_type.empty()) {
    fields.fail("architectures", fmt::format("the model's kind is not known; {}", supported));
  }
  for (const Family* family : families()) {
    if (architecture.empty() ? model_type == family->model_type
                             : architecture == family->architecture) {
      if (!model_type.empty() && model_type != family->model_type) {
        fields.fail("model_type", fmt::format("it contradicts architectures, which names {}; {}",
                                              architecture, supported));
      }
      return *family;
    }
  }
  fields.fail(architecture.empty() ? "model_type" : "architectures",
              fmt::format("this kind of model is not supported; {}", supported));
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

void write_rope(const RopeSpec& rope, nlohmann::json& json) {
  json["rope_theta"] = rope.theta;
  json["rope_scaling"] = nullptr;
  const RopeScaling& scaling = rope.scaling;
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
  } else if (scaling.type == RopeScaling::Type::yarn) {
    json["rope_scaling"] = {
        {"rope_type", "yarn"},
        {"factor", number(scaling.factor)},
        {"beta_fast", scaling.beta_fast},
        {"beta_slow", scaling.beta_slow},
        {"truncate", scaling.truncate},
        {"attention_factor", scaling.attention_factor},
        {"mscale_all_dim", scaling.mscale_all_dim},
        {"original_max_position_embeddings", scaling.original_max_position_embeddings}};
  }
}

const char* torch_name(DType t) {
  switch (t) {
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    default:
      return "float32";
  }
}

}  // namespace

ModelConfig parse_model_config(const std::string& json_text, const std::string& source) {
  const nlohmann::json json = parse_json_object(json_text, kTag, source);
  JsonFields fields(json, kTag, source);
  ModelConfig config;
  config.family = &find_family(fields);
  config.architecture = config.family->architecture;
  config.vocab_size = fields.required_integer("vocab_size", 1, kMaxTokenId);
  config.hidden_size = fields.required_integer("hidden_size", 1, 1 << 20);
  config.num_hidden_layers = fields.required_integer("num_hidden_layers", 1, 100000);
  config.family->read(fields, config);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings").value_or(false);
  config.initializer_range = fields.number("initializer_range", 0, 1e3).value_or(0.02);

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
      {"model_type", config.family->model_type},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_attention_heads", config.num_attention_heads},
      {"num_key_value_heads", config.num_key_value_heads},
      {"head_dim", config.head_dim},
      {"max_position_embeddings", config.max_position_embeddings},
      {"rms_norm_eps", config.rms_norm_eps},
      {"hidden_act", "silu"},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"initializer_range", config.initializer_range},
      {"attention_dropout", 0.0},
      {"use_cache", true},
  };
  write_rope(config.ropes.front(), json);
  config.family->write(config, json);
  json["torch_dtype"] = torch_name(config.dtype);
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
