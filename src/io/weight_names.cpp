#include "io/weight_names.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "core/error.h"
#include "io/peft_experts.h"
#include "io/peft_targets.h"

namespace hone::io {
namespace {

constexpr std::string_view kHead = "lm_head.weight";
constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kModel = "model.";
constexpr std::string_view kAnchor = "layers.0.input_layernorm.weight";

// Modules that wrap others and add a part to their names.
constexpr std::array<std::string_view, 5> kWrappers = {
    "module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_layer."};

// What stands before `end`, where the name is that or has a part before it.
std::optional<std::string> before(const std::string& name, std::string_view end) {
  if (!name.ends_with(end)) return std::nullopt;
  std::string prefix = name.substr(0, name.size() - end.size());
  return prefix.empty() || prefix.back() == '.' ? std::optional(prefix) : std::nullopt;
}

// The prefix of the one name that ends so; null: there is none, or there are several.
std::optional<std::string> only_prefix(const std::vector<std::string>& names,
                                       std::string_view end) {
  std::optional<std::string> found;
  for (const std::string& name : names) {
    const auto prefix = before(name, end);
    if (!prefix) continue;
    if (found) return std::nullopt;
    found = prefix;
  }
  return found;
}

bool is_of_the_body(std::string_view rest) {
  return rest.starts_with("layers.") || rest.starts_with("embed_tokens.") ||
         rest.starts_with("norm.") || rest.starts_with("rotary_emb.");
}

// What a module of a block has before "layers.N.".
std::optional<std::string> before_blocks(const std::string& module) {
  for (size_t at = 0; at != std::string::npos;) {
    const size_t number = at + std::string_view("layers.").size();
    if (module.compare(at, number - at, "layers.") == 0 && number < module.size() &&
        module[number] >= '0' && module[number] <= '9') {
      return module.substr(0, at);
    }
    at = module.find('.', at);
    if (at != std::string::npos) ++at;
  }
  return std::nullopt;
}

bool equal_values(const TensorEntry& a, const TensorEntry& b) {
  if (a.shape != b.shape) return false;
  if (a.type == b.type) return a.bytes == b.bytes && std::memcmp(a.data, b.data, a.bytes) == 0;
  std::vector<float> x(1 << 16), y(1 << 16);
  for (int64_t first = 0; first < a.elements(); first += static_cast<int64_t>(x.size())) {
    const auto n =
        static_cast<size_t>(std::min(a.elements() - first, static_cast<int64_t>(x.size())));
    read_as_float(a, first, {x.data(), n});
    read_as_float(b, first, {y.data(), n});
    if (!std::equal(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(n), y.begin())) return false;
  }
  return true;
}

void refuse_adapters(const CheckpointReader& reader) {
  for (const std::string& name : reader.names()) {
    if (name.find(".lora_") == std::string::npos && name.find(".modules_to_save.") == name.npos)
      continue;
    user_error("weights",
               "{}: tensor \"{}\" is of an adapter that is not merged into the weights; save the "
               "model after peft's merge_and_unload(), or the adapter alone",
               reader.folder().string(), name);
  }
}

void decide_head(CheckpointReader& reader, models::ModelConfig& config,
                 const std::function<void(const std::string&)>& warn) {
  const TensorEntry* head = reader.find(kHead);
  if (!config.tie_word_embeddings || head == nullptr) return;
  const TensorEntry* embedding = reader.find(kEmbedding);
  if (embedding == nullptr) {
    reader.rename({{std::string(kHead), std::string(kEmbedding)}});
  } else if (equal_values(*head, *embedding)) {
    // Its pages were read for this and are not again.
    reader.file_of(kHead).map().advise(MappedFile::Advice::dont_need, head->offset, head->bytes);
    reader.leave_out(kHead);
  } else {
    config.tie_word_embeddings = false;
    if (warn) {
      warn(fmt::format(
          "{}: config.json says tie_word_embeddings, but the weights have an {} that differs from "
          "{}: both are used, and saved with tie_word_embeddings false",
          reader.folder().string(), kHead, kEmbedding));
    }
  }
}

}  // namespace

std::string without_wrappers(std::string_view name) {
  std::string result;
  while (!name.empty()) {
    const auto wrapper = std::find_if(kWrappers.begin(), kWrappers.end(),
                                      [&](std::string_view w) { return name.starts_with(w); });
    const size_t dot = std::min(name.find('.'), name.size() - 1);
    if (wrapper == kWrappers.end()) result += name.substr(0, dot + 1);
    name.remove_prefix(dot + 1);
  }
  return result;
}

std::optional<std::string> unwrap_modules(Adapter& adapter) {
  std::set<std::string> found;
  for (const AdapterLayer& layer : adapter.layers)
    if (const auto prefix = before_blocks(layer.module)) found.insert(*prefix);
  if (found.size() != 1 || *found.begin() == kModel) return std::nullopt;
  const std::string prefix = *found.begin();
  const AdapterRules rules(adapter.config);
  AdapterConfig& config = adapter.config;
  config.target_expression.clear();
  config.exclude_expression.clear();
  for (auto* list : {&config.target_modules, &config.target_parameters, &config.exclude_modules,
                     &config.layers_pattern})
    list->clear();
  config.layers_to_transform.clear();
  config.rank_pattern.clear();
  config.alpha_pattern.clear();
  for (AdapterLayer& layer : adapter.layers) {
    const int64_t rank = rules.rank_of(layer.module);
    const double alpha = rules.alpha_of(layer.module);
    if (before_blocks(layer.module))
      layer.module = std::string(kModel) + layer.module.substr(prefix.size());
    (is_expert_parameter(layer.module) ? config.target_parameters : config.target_modules)
        .push_back(layer.module);
    if (rank != config.r) config.rank_pattern.emplace_back(layer.module, rank);
    if (alpha != config.alpha) config.alpha_pattern.emplace_back(layer.module, alpha);
  }
  return prefix;
}

std::map<std::string, std::string> canonical_names(const std::vector<std::string>& names) {
  std::vector<std::string> plain;
  for (const std::string& name : names) plain.push_back(without_wrappers(name));
  const auto body = only_prefix(plain, kAnchor), head = only_prefix(plain, kHead);
  std::map<std::string, std::string> changed;
  std::set<std::string> taken;
  for (size_t i = 0; i < names.size(); ++i) {
    std::string& name = plain[i];
    if (head && name == *head + std::string(kHead)) {
      name = kHead;
    } else if (body && name.starts_with(*body) && is_of_the_body(name.substr(body->size()))) {
      name = std::string(kModel) + name.substr(body->size());
    }
    if (!taken.insert(name).second) return {};
    if (name != names[i]) changed[names[i]] = name;
  }
  return changed;
}

CheckpointReader open_model_weights(const std::filesystem::path& folder,
                                    models::ModelConfig& config,
                                    const std::function<void(const std::string&)>& warn) {
  CheckpointReader reader = CheckpointReader::open(folder);
  refuse_adapters(reader);
  const std::map<std::string, std::string> changed = canonical_names(reader.names());
  if (!changed.empty()) {
    if (warn) {
      const auto& [from, to] = *changed.begin();
      warn(
          fmt::format("{}: the weights' names are those of a wrapped model: \"{}\" is read as "
                      "\"{}\", and {} more likewise",
                      folder.string(), from, to, changed.size() - 1));
    }
    reader.rename(changed);
  }
  decide_head(reader, config, warn);
  return reader;
}

}  // namespace hone::io
