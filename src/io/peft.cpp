#include "io/peft.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_fields.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/peft_experts.h"
#include "io/peft_targets.h"
#include "io/safetensors.h"
#include "io/weight_names.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kTag = "adapter";
constexpr int64_t kMaxRank = 1 << 16;
constexpr std::string_view kPrefix = "base_model.model.";

bool is_on(const nlohmann::json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

// A list of names, or a text.
void read_names(JsonFields& fields, const char* name, std::vector<std::string>& list,
                std::string& expression) {
  const nlohmann::json* value = fields.get(name);
  if (!value) return;
  if (value->is_string()) {
    expression = value->get<std::string>();
    std::string lower = expression;
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (lower == "all-linear") expression = lower;
  } else {
    list = *fields.texts(name);
    for (const std::string& item : list) {
      if (item.empty()) fields.fail(name, "a module name must not be empty");
    }
  }
}

void refuse_unsupported(JsonFields& fields) {
  if (const auto type = fields.text("peft_type"); !type || *type != "LORA") {
    fields.fail("peft_type", "only LORA adapters are supported");
  }
  if (const auto task = fields.text("task_type"); task && *task != "CAUSAL_LM") {
    fields.fail("task_type", "only CAUSAL_LM adapters are supported");
  }
  if (const auto bias = fields.text("bias"); bias && *bias != "none") {
    fields.fail("bias", "only \"none\" is supported: biases of the base are not trained");
  }
  for (const char* name :
       {"use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "layer_replication",
        "modules_to_save", "megatron_config", "trainable_token_indices", "alora_invocation_tokens",
        "use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
        "ensure_weight_tying", "auto_mapping"}) {
    const nlohmann::json* value = fields.get(name);
    if (!value || !is_on(*value)) continue;
    // Only says which class a custom base model has.
    if (std::string_view(name) == "auto_mapping") continue;
    fields.fail(name,
                "it changes what the adapter computes and is not supported; use a plain LoRA "
                "adapter, or merge this one into its base with peft");
  }
}

// Objects keep no order in the general reader, but the first pattern that matches counts.
template <class T>
void read_patterns(JsonFields& fields, const char* name, const nlohmann::ordered_json& ordered,
                   std::vector<std::pair<std::string, T>>& out, double lowest, double highest) {
  const nlohmann::json* object = fields.object(name);
  if (!object) return;
  JsonFields inner(*object, kTag, "adapter_config.json", std::string(name) + ".");
  for (const auto& [key, value] : ordered[name].items()) {
    if constexpr (std::is_same_v<T, int64_t>) {
      out.emplace_back(key, inner.required_integer(key, static_cast<int64_t>(lowest),
                                                   static_cast<int64_t>(highest)));
    } else {
      const auto number = inner.number(key, lowest, highest);
      if (!number) inner.fail(key, "it must be a number");
      out.emplace_back(key, *number);
    }
  }
}

nlohmann::ordered_json number_json(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

}  // namespace

AdapterConfig parse_adapter_config(const std::string& json_text, const std::string& source) {
  const nlohmann::json json = parse_json_object(json_text, kTag, source);
  const auto ordered = nlohmann::ordered_json::parse(json_text);
  JsonFields fields(json, kTag, source);
  refuse_unsupported(fields);
  AdapterConfig config;
  config.r = fields.integer("r", 1, kMaxRank).value_or(8);
  config.alpha = fields.number("lora_alpha", -1e9, 1e9).value_or(8);
  config.dropout = fields.number("lora_dropout", 0, 1).value_or(0);
  if (config.dropout >= 1) fields.fail("lora_dropout", "it must be below 1");
  config.use_rslora = fields.boolean("use_rslora").value_or(false);
  config.task_type = fields.text("task_type").value_or("CAUSAL_LM");
  config.base_model_name_or_path = fields.text("base_model_name_or_path").value_or("");
  config.revision = fields.text("revision").value_or("");
  read_names(fields, "target_modules", config.target_modules, config.target_expression);
  config.target_parameters = fields.texts("target_parameters").value_or(std::vector<std::string>{});
  for (const std::string& name : config.target_parameters) {
    if (name.empty()) fields.fail("target_parameters", "a parameter's name must not be empty");
  }
  if (config.target_modules.empty() && config.target_expression.empty() &&
      config.target_parameters.empty()) {
    fields.fail("target_modules", "it must list the modules that the adapter changes");
  }
  read_names(fields, "exclude_modules", config.exclude_modules, config.exclude_expression);
  if (const nlohmann::json* layers = fields.get("layers_to_transform")) {
    if (layers->is_array()) {
      config.layers_to_transform = *fields.integers("layers_to_transform", 0, INT32_MAX);
    } else {
      config.layers_to_transform = {fields.required_integer("layers_to_transform", 0, INT32_MAX)};
    }
    if (!config.target_expression.empty() && !config.layers_to_transform.empty()) {
      fields.fail("layers_to_transform", "it works only with a list of target_modules");
    }
  }
  if (const nlohmann::json* pattern = fields.get("layers_pattern")) {
    if (pattern->is_string()) {
      const auto text = pattern->get<std::string>();
      if (!text.empty()) config.layers_pattern = {text};
    } else {
      config.layers_pattern = *fields.texts("layers_pattern");
    }
    if (!config.layers_pattern.empty() && config.layers_to_transform.empty()) {
      fields.fail("layers_pattern", "it acts only with layers_to_transform");
    }
  }
  read_patterns(fields, "rank_pattern", ordered, config.rank_pattern, 1, kMaxRank);
  read_patterns(fields, "alpha_pattern", ordered, config.alpha_pattern, -1e9, 1e9);
  if (const nlohmann::json* init = fields.get("init_lora_weights")) {
    if (init->is_boolean()) {
      config.init_lora_weights = init->get<bool>() ? "true" : "false";
    } else {
      config.init_lora_weights = *fields.text("init_lora_weights");
      // These change the weights of the base when the adapter is made, so a saved adapter fits
      // another base only.
      if (config.init_lora_weights == "mica") {
        fields.fail("init_lora_weights", "its B is not trained, which is not supported");
      }
      for (const std::string_view changed : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
        if (config.init_lora_weights.starts_with(changed)) {
          fields.fail("init_lora_weights",
                      "such an adapter belongs to a base with changed weights, which is not "
                      "supported; convert it with peft");
        }
      }
    }
  }
  fields.ignore({"auto_mapping", "inference_mode", "peft_version", "megatron_core", "loftq_config",
                 "eva_config", "corda_config", "lora_ga_config", "qalora_group_size",
                 "runtime_config"});
  config.unknown_fields = fields.unknown();
  AdapterRules{config};  // its expressions are understood
  return config;
}

std::string adapter_config_json(const AdapterConfig& config) {
  nlohmann::ordered_json json;
  auto names = [](const std::vector<std::string>& list,
                  const std::string& expression) -> nlohmann::ordered_json {
    if (!expression.empty()) return expression;
    if (list.empty()) return nullptr;
    return list;
  };
  json["peft_type"] = "LORA";
  json["task_type"] = config.task_type;
  json["auto_mapping"] = nullptr;
  json["base_model_name_or_path"] = config.base_model_name_or_path;
  json["revision"] = nullptr;
  if (!config.revision.empty()) json["revision"] = config.revision;
  json["inference_mode"] = true;
  json["r"] = config.r;
  json["lora_alpha"] = number_json(config.alpha);
  json["lora_dropout"] = config.dropout;
  json["use_rslora"] = config.use_rslora;
  json["target_modules"] = names(config.target_modules, config.target_expression);
  if (!config.target_parameters.empty()) json["target_parameters"] = config.target_parameters;
  json["exclude_modules"] = names(config.exclude_modules, config.exclude_expression);
  json["layers_to_transform"] = nullptr;
  if (!config.layers_to_transform.empty()) json["layers_to_transform"] = config.layers_to_transform;
  json["layers_pattern"] = nullptr;
  if (!config.layers_pattern.empty()) json["layers_pattern"] = config.layers_pattern;
  json["rank_pattern"] = nlohmann::ordered_json::object();
  for (const auto& [key, value] : config.rank_pattern) json["rank_pattern"][key] = value;
  json["alpha_pattern"] = nlohmann::ordered_json::object();
  for (const auto& [key, value] : config.alpha_pattern) {
    json["alpha_pattern"][key] = number_json(value);
  }
  json["init_lora_weights"] = config.init_lora_weights;
  if (config.init_lora_weights == "true") json["init_lora_weights"] = true;
  if (config.init_lora_weights == "false") json["init_lora_weights"] = false;
  json["bias"] = "none";
  json["fan_in_fan_out"] = false;
  json["modules_to_save"] = nullptr;
  json["use_dora"] = false;
  json["lora_bias"] = false;
  json["layer_replication"] = nullptr;
  json["megatron_config"] = nullptr;
  json["megatron_core"] = "megatron.core";
  json["loftq_config"] = nlohmann::ordered_json::object();
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string adapter_tensor_name(std::string_view module, LoraSide side) {
  return fmt::format("{}{}.lora_{}.weight", kPrefix, module, side == LoraSide::a ? 'A' : 'B');
}

std::optional<AdapterTensorName> parse_adapter_tensor_name(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  for (const LoraSide side : {LoraSide::a, LoraSide::b}) {
    const std::string_view end = side == LoraSide::a ? ".lora_A.weight" : ".lora_B.weight";
    if (name.size() > end.size() && name.ends_with(end)) {
      name.remove_suffix(end.size());
      return AdapterTensorName{std::string(name), side};
    }
  }
  return std::nullopt;
}

AdapterConfig read_adapter_config(const fs::path& folder) {
  const fs::path path = folder / "adapter_config.json";
  std::error_code code;
  if (fs::exists(path, code))
    return parse_adapter_config(read_text_file(path, 16u << 20), path.string());
  std::string hint = checkpoint_hint(folder);
  if (hint.empty() && fs::exists(folder / "config.json", code))
    hint = "; it holds a model, which is given with --pretrained";
  if (hint.empty()) hint = "; give the folder of a PEFT adapter";
  user_error(kTag, "{} has no adapter_config.json{}", folder.string(), hint);
}

Adapter load_adapter(const fs::path& folder) {
  std::error_code code;
  const fs::path weights_path = folder / "adapter_model.safetensors";
  Adapter adapter;
  adapter.config = read_adapter_config(folder);
  if (!fs::exists(weights_path, code)) {
    if (fs::exists(folder / "adapter_model.bin", code)) {
      user_error(kTag,
                 "{} has only adapter_model.bin, which can run code when read; convert it to "
                 "safetensors: load it with peft and call save_pretrained",
                 folder.string());
    }
    user_error(kTag, "{} has no adapter_model.safetensors; the adapter is incomplete",
               folder.string());
  }
  const SafetensorsFile file = SafetensorsFile::open(weights_path);
  std::map<std::string, std::pair<const TensorEntry*, const TensorEntry*>, decltype(&natural_less)>
      modules(&natural_less);
  for (const TensorEntry& tensor : file.tensors()) {
    const auto name = parse_adapter_tensor_name(
        without_wrappers(with_expert_parameter(tensor.name, adapter.config)));
    if (!name) {
      user_error(kTag,
                 "{}: tensor {} is not a LoRA matrix of a linear layer (base_model.model.<module>."
                 "lora_A.weight or lora_B.weight); only those are supported",
                 weights_path.string(), shown(nlohmann::json(tensor.name)));
    }
    auto& pair = modules[name->module];
    const TensorEntry*& slot = name->side == LoraSide::a ? pair.first : pair.second;
    if (slot != nullptr) {
      user_error(kTag, "{}: tensors {} and {} are the same matrix of {}", weights_path.string(),
                 shown(nlohmann::json(slot->name)), shown(nlohmann::json(tensor.name)),
                 shown(nlohmann::json(name->module)));
    }
    slot = &tensor;
  }
  if (modules.empty()) user_error(kTag, "{} holds no tensors", weights_path.string());
  const AdapterRules rules(adapter.config);
  for (const auto& [module, pair] : modules) {
    const auto& [a, b] = pair;
    if (!a || !b) {
      user_error(kTag, "{}: module {} has lora_{} but no lora_{}; the adapter is incomplete",
                 weights_path.string(), shown(nlohmann::json(module)), a ? 'A' : 'B',
                 a ? 'B' : 'A');
    }
    const int64_t rank = rules.rank_of(module);
    int64_t copies = 1;
    if (is_expert_parameter(module) && a->shape.size() == 2 && a->shape[0] >= rank)
      copies = a->shape[0] / rank;
    if (a->shape.size() != 2 || b->shape.size() != 2 || a->shape[0] != rank * copies ||
        b->shape[1] != rank * copies || a->elements() == 0 || b->elements() == 0) {
      user_error(kTag,
                 "{}: module {} has lora_A [{}] and lora_B [{}], but adapter_config.json gives it "
                 "rank {}: A must be [{}, in] and B [out, {}]",
                 weights_path.string(), shown(nlohmann::json(module)), fmt::join(a->shape, ", "),
                 fmt::join(b->shape, ", "), rank, rank, rank);
    }
    for (const TensorEntry* tensor : {a, b}) {
      if (const auto bad = find_nonfinite(*tensor)) {
        user_error(kTag, "{}: tensor {} holds {} at element {}; the adapter is damaged",
                   weights_path.string(), tensor->name, bad->value, bad->first);
      }
    }
    AdapterLayer layer{module, rank, a->shape[1], b->shape[0], copies, {}, {}};
    layer.a.resize(static_cast<size_t>(a->elements()));
    layer.b.resize(static_cast<size_t>(b->elements()));
    read_as_float(*a, 0, layer.a);
    read_as_float(*b, 0, layer.b);
    if (copies != 1) layer.b = by_expert(layer.b, copies, layer.out, rank);
    adapter.layers.push_back(std::move(layer));
  }
  for (const std::string& field : adapter.config.unknown_fields) {
    adapter.notes.push_back(
        fmt::format("{}: adapter_config.json: field \"{}\" is not known and has no effect",
                    folder.string(), field));
  }
  if (const auto prefix = unwrap_modules(adapter)) {
    adapter.notes.push_back(fmt::format(
        "{}: the adapter's modules are those of a wrapped model: \"{}layers\" is read as "
        "\"model.layers\"",
        folder.string(), *prefix));
  }
  return adapter;
}

void save_adapter(const fs::path& folder, const std::vector<AdapterLayerView>& layers) {
  std::error_code code;
  fs::create_directories(folder, code);
  if (code) runtime_error("file", "cannot create {}: {}", folder.string(), code.message());
  std::vector<TensorDecl> decls;
  const auto name = [&](const AdapterLayerView& layer, LoraSide side) {
    return adapter_tensor_name(without_expert_parameter(layer.module, layers), side);
  };
  for (const AdapterLayerView& layer : layers) {
    const int64_t ranks = layer.copies * layer.rank;
    decls.push_back({name(layer, LoraSide::a), FileType::f32, {ranks, layer.in}});
    decls.push_back({name(layer, LoraSide::b), FileType::f32, {layer.out, ranks}});
  }
  SafetensorsWriter writer(folder / "adapter_model.safetensors", decls);
  for (const AdapterLayerView& layer : layers) {
    const int64_t ranks = layer.copies * layer.rank;
    writer.write(name(layer, LoraSide::a),
                 std::as_bytes(std::span(layer.a, static_cast<size_t>(ranks * layer.in))));
    std::vector<float> stored;
    if (layer.copies != 1) stored = by_rank(layer.b, layer.copies, layer.out, layer.rank);
    writer.write(name(layer, LoraSide::b),
                 std::as_bytes(std::span(layer.copies != 1 ? stored.data() : layer.b,
                                         static_cast<size_t>(ranks * layer.out))));
  }
  writer.finish();
}

}  // namespace hone::io
