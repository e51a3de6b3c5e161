#include "models/config_fields.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace hone::models {
namespace {

constexpr std::string_view kTag = "config";

}  // namespace

bool is_on(const nlohmann::json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

void refuse(JsonFields& fields, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const nlohmann::json* value = fields.get(name);
    if (value && is_on(*value)) {
      fields.fail(
          name, "it changes what the model computes and is not supported; use a model without it");
    }
  }
}

void refuse_other_computations(JsonFields& fields) {
  refuse(fields, {"attn_logit_softcapping", "final_logit_softcapping", "logit_softcapping",
                  "query_pre_attn_scalar", "no_rope_layers", "clip_qkv", "is_encoder_decoder",
                  "add_cross_attention", "per_layer_config", "rope_local_base_freq",
                  "attention_dropout", "alibi", "attention_sink"});
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

void refuse_experts(JsonFields& fields) {
  refuse(fields, {"num_experts", "num_local_experts", "n_routed_experts", "mlp_only_layers"});
}

void refuse_latent_attention(JsonFields& fields) { refuse(fields, {"kv_lora_rank"}); }

void refuse_head_norms(JsonFields& fields) { refuse(fields, {"qk_layernorm", "use_qk_norm"}); }

void refuse_biases(JsonFields& fields, std::initializer_list<std::string_view> names,
                   std::string_view family) {
  for (const std::string_view name : names) {
    if (fields.boolean(name).value_or(false))
      fields.fail(name, fmt::format("{} models have no such biases", family));
  }
}

void read_sizes(JsonFields& fields, const SizeDefaults& defaults, ModelConfig& config) {
  config.intermediate_size = fields.required_integer("intermediate_size", 1, 1 << 24);
  config.num_attention_heads = fields.required_integer("num_attention_heads", 1, 1 << 16);
  config.max_position_embeddings = fields.integer("max_position_embeddings", 1, INT64_MAX / 2)
                                       .value_or(defaults.max_position_embeddings);
  const bool kv_null = fields.present("num_key_value_heads") && !fields.has("num_key_value_heads");
  const int64_t kv_default = kv_null || defaults.num_key_value_heads == 0
                                 ? config.num_attention_heads
                                 : defaults.num_key_value_heads;
  config.num_key_value_heads =
      fields.integer("num_key_value_heads", 1, 1 << 16).value_or(kv_default);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fields.fail("num_key_value_heads",
                fmt::format("its value, {}, must divide num_attention_heads, which is {}",
                            config.num_key_value_heads, config.num_attention_heads));
  }
  if (const auto head_dim = fields.integer("head_dim", 1, 1 << 16)) {
    config.head_dim = *head_dim;
  } else if (defaults.head_dim != 0) {
    config.head_dim = defaults.head_dim;
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
  config.rms_norm_eps = fields.number("rms_norm_eps", 0, 1).value_or(1e-6);
}

void check_window(const ModelConfig& config, std::optional<int64_t> window) {
  if (!window || *window >= config.max_position_embeddings) return;
  user_error(kTag,
             "{}: sliding_window is {}, below max_position_embeddings {}; sliding windows are not "
             "supported. If no sequence of yours is longer than {} tokens the window never acts: "
             "set sliding_window to null in a copy of config.json",
             config.architecture, *window, config.max_position_embeddings, *window);
}

std::optional<int64_t> read_window(JsonFields& fields) {
  const auto window = fields.integer("sliding_window", 1, INT64_MAX / 2);
  return fields.present("sliding_window") ? window : 4096;
}

std::optional<int64_t> read_qwen_window(JsonFields& fields, const ModelConfig& config) {
  const bool use = fields.boolean("use_sliding_window").value_or(false);
  const int64_t full_layers = fields.integer("max_window_layers", 0, INT32_MAX).value_or(28);
  fields.ignore({"sliding_window"});
  if (!use) return std::nullopt;
  const auto window = read_window(fields);
  if (full_layers < config.num_hidden_layers) check_window(config, window);
  return window;
}

void check_layer_types(JsonFields& fields, const ModelConfig& config,
                       std::optional<int64_t> window) {
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

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

namespace {

void read_yarn(JsonFields& rope, RopeSpec& spec) {
  constexpr double kLargest = 1e6;
  RopeScaling& scaling = spec.scaling;
  if (spec.theta <= 1) rope.fail("rope_theta", "rope type yarn needs one above 1");
  const auto or_default = [&](const char* name, double value) {
    const double found = rope.number(name, 0, kLargest).value_or(0);
    return found == 0 ? value : found;  // as transformers takes a 0
  };
  scaling.beta_fast = or_default("beta_fast", 32);
  scaling.beta_slow = or_default("beta_slow", 1);
  if (scaling.beta_fast < scaling.beta_slow)
    rope.fail("beta_fast",
              fmt::format("it must not be less than beta_slow, which is {}", scaling.beta_slow));
  scaling.truncate = rope.boolean("truncate").value_or(true);
  const double mscale = rope.number("mscale", 0, kLargest).value_or(0);
  scaling.mscale_all_dim = rope.number("mscale_all_dim", 0, kLargest).value_or(0);
  const double factor = static_cast<double>(scaling.factor);
  const double inferred =
      mscale != 0 && scaling.mscale_all_dim != 0
          ? yarn_mscale(factor, mscale) / yarn_mscale(factor, scaling.mscale_all_dim)
          : yarn_mscale(factor, 1);
  scaling.attention_factor = rope.number("attention_factor", 0, kLargest).value_or(inferred);
}

}  // namespace

void read_rope(JsonFields& fields, ModelConfig& config) {
  const double kLargest = 1e30;
  RopeSpec& spec = config.ropes.emplace_back();
  spec.dim = config.head_dim;
  spec.theta = fields.number("rope_theta", 1e-6, kLargest).value_or(10000);
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
  JsonFields rope = fields.inner(*object, name);
  spec.theta = rope.number("rope_theta", 1e-6, kLargest).value_or(spec.theta);
  if (const auto part = rope.number("partial_rotary_factor", 0, 1); part && *part != 1) {
    rope.fail("partial_rotary_factor", "only 1 is supported");
  }
  std::optional<std::string> type = rope.text("rope_type");
  const std::optional<std::string> old_type = rope.text("type");
  const char* type_name = type ? "rope_type" : "type";
  if (!type) type = old_type;
  RopeScaling& scaling = spec.scaling;
  if (!type || *type == "default") {
    scaling.type = RopeScaling::Type::none;
  } else if (*type == "linear") {
    scaling.type = RopeScaling::Type::linear;
  } else if (*type == "llama3") {
    scaling.type = RopeScaling::Type::llama3;
  } else if (*type == "yarn") {
    scaling.type = RopeScaling::Type::yarn;
  } else {
    rope.fail(type_name,
              "this rotary embedding is not supported; default, linear, llama3 and yarn are");
  }
  if (scaling.type != RopeScaling::Type::none) {
    const auto factor = rope.number("factor", 1e-6, 1e6);
    if (!factor) rope.fail("factor", fmt::format("rope type {} needs a number", *type));
    scaling.factor = static_cast<float>(*factor);
  }
  if (scaling.type == RopeScaling::Type::llama3 || scaling.type == RopeScaling::Type::yarn) {
    const auto original = rope.integer("original_max_position_embeddings", 1, INT64_MAX / 2);
    scaling.original_max_position_embeddings =
        top_original.value_or(original.value_or(config.max_position_embeddings));
  }
  if (scaling.type == RopeScaling::Type::yarn) read_yarn(rope, spec);
  if (scaling.type == RopeScaling::Type::llama3) {
    const auto low = rope.number("low_freq_factor", 1e-6, 1e6);
    const auto high = rope.number("high_freq_factor", 1e-6, 1e6);
    if (!low) rope.fail("low_freq_factor", "rope type llama3 needs a number");
    if (!high) rope.fail("high_freq_factor", "rope type llama3 needs a number");
    if (*high <= *low) {
      rope.fail("high_freq_factor",
                fmt::format("it must be greater than low_freq_factor, which is {}", *low));
    }
    scaling.low_freq_factor = static_cast<float>(*low);
    scaling.high_freq_factor = static_cast<float>(*high);
  }
  for (std::string& unknown : rope.unknown()) config.unknown_fields.push_back(std::move(unknown));
}

void read_experts(JsonFields& fields, const ExpertsDefaults& defaults, ModelConfig& config) {
  ExpertsConfig& experts = config.experts.emplace();
  const char* name = fields.has("num_local_experts") ? "num_local_experts" : "num_experts";
  experts.experts = fields.integer(name, 1, 1 << 16).value_or(defaults.experts);
  fields.ignore({"num_experts", "num_local_experts"});
  experts.per_token =
      fields.integer("num_experts_per_tok", 1, 1 << 16).value_or(defaults.per_token);
  if (experts.per_token > experts.experts) {
    fields.fail("num_experts_per_tok",
                fmt::format("a token can't take more experts than there are, {} ({})",
                            experts.experts, name));
  }
  experts.sparse.assign(static_cast<size_t>(config.num_hidden_layers), true);
  // Only a trainer that asks for the router's loss has it; peers' fine-tuning doesn't.
  fields.ignore({"output_router_logits", "router_aux_loss_coef"});
}

nn::GqaSpec attention_of(const ModelConfig& c) {
  return {.hidden = c.hidden_size,
          .heads = c.num_attention_heads,
          .key_heads = c.num_key_value_heads,
          .head_dim = c.head_dim,
          .qkv_bias = c.qkv_bias,
          .out_bias = c.attention_out_bias,
          .head_norm = c.qk_norm,
          .eps = c.rms_norm_eps};
}

BlockSpec dense_block(const ModelConfig& c, int64_t) {
  return {.hidden = c.hidden_size,
          .eps = c.rms_norm_eps,
          .mixer = attention_of(c),
          .mlp = nn::GatedMlpSpec{
              .hidden = c.hidden_size, .intermediate = c.intermediate_size, .bias = c.mlp_bias}};
}

BlockSpec expert_block(const ModelConfig& c, int64_t layer) {
  BlockSpec spec = dense_block(c, layer);
  const ExpertsConfig& experts = *c.experts;
  if (!experts.sparse[static_cast<size_t>(layer)]) return spec;
  spec.mlp = nn::MoeSpec{.hidden = c.hidden_size,
                         .intermediate = experts.intermediate_size,
                         .experts = experts.experts,
                         .experts_per_token = experts.per_token,
                         .rule = {.normalise = experts.normalise},
                         .shared_intermediate = experts.shared_intermediate_size};
  return spec;
}

}  // namespace hone::models
