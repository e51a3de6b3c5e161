#include "io/peft_targets.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "io/peft_experts.h"

namespace hone::io {
namespace {

constexpr const char* kHint = "list the module names instead";

Expression compile(const std::string& expression, std::string_view what) {
  return Expression(expression, "adapter", what, kHint);
}

// PEFT's way with names in patterns: the end of a path, from a dot on.
Expression compile_end(const std::string& pattern, std::string_view what) {
  compile(pattern, what);  // on its own, so that an error shows it as it was written
  return compile("(.*\\.)?(" + pattern + ")", what);
}

bool is_suffix(std::string_view module, std::string_view name) {
  return module == name || (module.size() > name.size() && module.ends_with(name) &&
                            module[module.size() - name.size() - 1] == '.');
}

bool any_suffix(std::string_view module, const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return is_suffix(module, name); });
}

template <class T>
bool contains(const std::vector<T>& list, const auto& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

std::vector<std::string_view> split(std::string_view path) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t dot = path.find('.');
    parts.push_back(path.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    path.remove_prefix(dot + 1);
  }
}

std::string last_parts_of(const std::string& path, int parts) {
  size_t at = path.size();
  for (int i = 0; i < parts && at != std::string::npos && at != 0; ++i)
    at = path.rfind('.', at - 1);
  return at == std::string::npos ? path : path.substr(at + 1);
}

// Names of modules that PEFT, in models with experts, reads as those of experts.
bool is_taken_for_experts(std::string_view name) {
  constexpr std::string_view names[] = {"gate_proj", "up_proj", "down_proj", "gate",
                                        "w1",        "w2",      "w3"};
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

std::optional<int64_t> as_index(std::string_view text) {
  if (text.empty() || text.size() > 9) return std::nullopt;
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value;
}

// The number that follows the first part of a path for which `fits` (given all before the number)
// holds.
std::optional<int64_t> number_after(std::string_view module, auto&& fits) {
  for (size_t dot = module.find('.'); dot != std::string_view::npos;) {
    const size_t next = module.find('.', dot + 1);
    if (next == std::string_view::npos) return std::nullopt;
    const auto index = as_index(module.substr(dot + 1, next - dot - 1));
    if (index && fits(module.substr(0, dot))) return index;
    dot = next;
  }
  return std::nullopt;
}

template <class P>
auto first_match(const std::vector<P>& patterns, std::string_view module)
    -> decltype(&patterns[0].value) {
  for (const P& pattern : patterns)
    if (pattern.expression.matches(module)) return &pattern.value;
  return nullptr;
}

}  // namespace

AdapterRules::AdapterRules(const AdapterConfig& config) : config_(config) {
  if (!config.target_expression.empty() && !config.all_linear())
    target_ = compile(config.target_expression, "target_modules");
  if (!config.exclude_expression.empty())
    exclude_ = compile(config.exclude_expression, "exclude_modules");
  for (const std::string& pattern : config.layers_pattern)
    layers_patterns_.push_back(compile_end(pattern, "layers_pattern"));
  for (const auto& [pattern, rank] : config.rank_pattern)
    ranks_.push_back({compile_end(pattern, "rank_pattern"), rank});
  for (const auto& [pattern, alpha] : config.alpha_pattern)
    alphas_.push_back({compile_end(pattern, "alpha_pattern"), alpha});
}

bool AdapterRules::targets(std::string_view module) const {
  if (exclude_ && exclude_->matches(module)) return false;
  if (any_suffix(module, config_.exclude_modules)) return false;
  if (is_expert_parameter(module)) {
    if (any_suffix(module, config_.target_parameters)) return true;
  } else if (any_suffix(std::string(module) + ".weight", config_.target_parameters)) {
    return true;
  }
  if (config_.all_linear()) return !is_suffix(module, "lm_head") && in_layers(module);
  if (target_) return target_->matches(module) && in_layers(module);
  if (contains(config_.target_modules, module)) return true;
  return any_suffix(module, config_.target_modules) && in_layers(module);
}

bool AdapterRules::in_layers(std::string_view module) const {
  if (config_.layers_to_transform.empty()) return true;
  std::optional<int64_t> block;
  if (layers_patterns_.empty()) block = block_of(module);
  for (const Expression& pattern : layers_patterns_) {
    if (block) break;
    block = number_after(module, [&](std::string_view path) { return pattern.matches(path); });
  }
  return block && contains(config_.layers_to_transform, *block);
}

int64_t AdapterRules::rank_of(std::string_view module) const {
  const int64_t* value = first_match(ranks_, module);
  return value ? *value : config_.r;
}

double AdapterRules::alpha_of(std::string_view module) const {
  const double* value = first_match(alphas_, module);
  return value ? *value : config_.alpha;
}

double AdapterRules::scale_of(std::string_view module) const {
  const double rank = static_cast<double>(rank_of(module));
  return alpha_of(module) / (config_.use_rslora ? std::sqrt(rank) : rank);
}

AdapterConfig resolved_config(AdapterConfig config, const std::vector<std::string>& modules,
                              const std::vector<std::string>& tuned, bool experts) {
  const auto by_parameter = [&](const std::string& module) {
    return is_expert_parameter(module) ||
           (experts && config.dropout == 0 && is_taken_for_experts(last_parts_of(module, 1)));
  };
  std::set<std::string> names, parameters;
  std::set<int64_t> blocks;
  std::vector<std::string> whole_names, whole_parameters;
  for (const std::string& module : tuned) {
    if (const auto block = block_of(module)) blocks.insert(*block);
    if (is_expert_parameter(module)) {
      parameters.insert(last_parts_of(module, 3));
      whole_parameters.push_back(module);
    } else if (by_parameter(module)) {
      parameters.insert(last_parts_of(module, 2) + ".weight");
      whole_parameters.push_back(module + ".weight");
    } else {
      names.insert(last_parts_of(module, 1));
      whole_names.push_back(module);
    }
  }
  const std::set<std::string> wanted(tuned.begin(), tuned.end());
  const auto selects_tuned = [&](bool all) {
    const AdapterRules rules(config);
    return std::all_of(modules.begin(), modules.end(), [&](const std::string& module) {
      return (!all && !by_parameter(module)) || rules.targets(module) == wanted.contains(module);
    });
  };
  config.target_expression.clear();
  config.layers_pattern.clear();
  config.layers_to_transform.clear();
  config.target_modules.clear();
  config.target_parameters.assign(parameters.begin(), parameters.end());
  if (!selects_tuned(false)) config.target_parameters = whole_parameters;
  config.target_modules.assign(names.begin(), names.end());
  if (selects_tuned(true)) return config;
  config.layers_to_transform.assign(blocks.begin(), blocks.end());
  if (selects_tuned(true)) return config;
  config.layers_to_transform.clear();
  config.target_modules = whole_names;
  HONE_CHECK(selects_tuned(true), "whole paths select what they name");
  return config;
}

std::optional<int64_t> block_of(std::string_view module) {
  return number_after(module, [](std::string_view path) { return path.find('.') != path.npos; });
}

bool natural_less(std::string_view a, std::string_view b) {
  const auto pa = split(a), pb = split(b);
  for (size_t i = 0; i < std::min(pa.size(), pb.size()); ++i) {
    if (pa[i] == pb[i]) continue;
    const auto na = as_index(pa[i]), nb = as_index(pb[i]);
    if (na && nb && *na != *nb) return *na < *nb;
    return pa[i] < pb[i];
  }
  return pa.size() < pb.size();
}

}  // namespace hone::io
