// Adapters of a model: new ones, and those that PEFT or hone has written.
#include <algorithm>
#include <set>
#include <unordered_map>

#include <fmt/ranges.h>

#include "exec/memory.h"
#include "io/peft_targets.h"
#include "load/model.h"
#include "models/family.h"

namespace hone::load {
namespace {

using LayersByModule = std::unordered_map<std::string_view, const io::AdapterLayer*>;

LayersByModule by_module(const io::Adapter& adapter) {
  LayersByModule layers;
  for (const io::AdapterLayer& layer : adapter.layers) layers[layer.module] = &layer;
  return layers;
}

}  // namespace

bool is_target(const io::AdapterRules& rules, const nn::Linear& linear) {
  return rules.targets(linear.path) && !(linear.router && rules.all_linear());
}

void Model::register_adapter(const io::AdapterConfig& config,
                             const std::vector<std::pair<nn::Linear*, int64_t>>& layers,
                             bool trainable) {
  HONE_CHECK(!adapter_config_.has_value(), "one adapter at a time");
  std::vector<std::string> modules, tuned;
  for (const nn::Linear* l : decoder_->linears()) modules.push_back(l->path);
  modules.emplace_back("lm_head");
  for (const auto& [linear, rank] : layers) tuned.push_back(linear->path);
  adapter_config_ = io::resolved_config(config, modules, tuned, this->config().family->experts);
  const io::AdapterRules rules(config);
  for (const auto& [linear, rank] : layers) {
    if (linear->copies() != 1 && config.dropout != 0) {
      user_error(
          "lora_dropout",
          "it is {}, but adapters of experts ({}) can't have dropout, in PEFT neither; use 0, "
          "or leave the experts out of --lora_target",
          config.dropout, linear->path);
    }
    nn::add_lora(params_, *linear,
                 {.rank = rank,
                  .scale = static_cast<float>(rules.scale_of(linear->path)),
                  .dropout = static_cast<float>(config.dropout)});
    if (!trainable) {
      params_.set_trainable(linear->params.lora->a, false);
      params_.set_trainable(linear->params.lora->b, false);
    }
    adapted_.push_back(linear);
  }
}

std::vector<nn::Linear*> Model::add_adapter(const io::AdapterConfig& config) {
  const io::AdapterRules rules(config);
  std::vector<std::pair<nn::Linear*, int64_t>> matched;
  std::set<int64_t> blocks;
  for (nn::Linear* l : decoder_->linears()) {
    if (!is_target(rules, *l)) continue;
    matched.emplace_back(l, rules.rank_of(l->path));
    blocks.insert(*io::block_of(l->path));
  }
  for (const int64_t layer : config.layers_to_transform) {
    if (layer >= decoder_->config().num_hidden_layers) {
      user_error("lora_layers", "there is no block {}: {} has {}, counted from 0", layer,
                 architecture(), decoder_->config().num_hidden_layers);
    }
  }
  check_targets(config);
  for (const int64_t layer : config.layers_to_transform) {
    if (!blocks.contains(layer)) {
      user_error("lora_layers",
                 "no layer of block {} is a target; leave it out, or widen --lora_target", layer);
    }
  }
  register_adapter(config, matched, true);
  return adapted_;
}

// Each requested name must match something of its own.
void Model::check_targets(const io::AdapterConfig& config) const {
  const std::vector<nn::Linear*> all = decoder_->linears();
  const auto check = [&](const io::AdapterConfig& one, const std::string& target) {
    const io::AdapterRules rules(one);
    if (std::any_of(all.begin(), all.end(), [&](nn::Linear* l) { return is_target(rules, *l); }))
      return;
    std::set<std::string> names;
    for (const nn::Linear* l : all) names.insert(l->path.substr(l->path.rfind('.') + 1));
    user_error("lora_target",
               "\"{}\" matches no linear layer of {}; use all-linear, or of its layers {}", target,
               architecture(), fmt::join(names, ", "));
  };
  if (!config.target_expression.empty()) check(config, config.target_expression);
  for (const std::string& target : config.target_modules) {
    io::AdapterConfig one = config;
    one.target_modules = {target};
    check(one, target);
  }
}

std::vector<nn::Linear*> Model::load_adapter(const std::filesystem::path& folder, bool trainable) {
  adapter_values_ = io::load_adapter(folder);
  for (const std::string& note : adapter_values_->notes)
    if (options_.warn) options_.warn(note);
  const io::AdapterRules rules(adapter_values_->config);
  const auto layers = by_module(*adapter_values_);
  std::vector<std::pair<nn::Linear*, int64_t>> matched;
  std::set<std::string> taken;
  for (nn::Linear* l : decoder_->linears()) {
    const auto found = layers.find(l->path);
    if (found == layers.end()) {
      if (is_target(rules, *l)) {
        user_error(
            "adapter",
            "{}: adapter_config.json targets {} but adapter_model.safetensors holds nothing for it",
            folder.string(), l->path);
      }
      continue;
    }
    if (!rules.targets(l->path)) {
      user_error("adapter",
                 "{}: adapter_model.safetensors has weights for {}, which adapter_config.json does "
                 "not target, so that peft would leave them out; the two files don't belong "
                 "together",
                 folder.string(), l->path);
    }
    const io::AdapterLayer* layer = found->second;
    if (layer->copies != l->copies()) {
      user_error("adapter",
                 "{}: the adapter of {} is for {} experts, but the base model has {}; it was made "
                 "for another model",
                 folder.string(), l->path, layer->copies, l->copies());
    }
    if (layer->in != l->in || layer->out != l->out) {
      user_error("adapter",
                 "{}: the adapter of {} is for a layer [{}, {}], but the base model's is [{}, {}]; "
                 "it was made for another model",
                 folder.string(), l->path, layer->out, layer->in, l->out, l->in);
    }
    taken.insert(l->path);
    matched.emplace_back(l, layer->rank);
  }
  for (const io::AdapterLayer& a : adapter_values_->layers) {
    if (!taken.contains(a.module)) {
      user_error("adapter",
                 "{}: the adapter has weights for \"{}\", which is not a linear layer of a block "
                 "of {}; it was made for another "
                 "model, or tunes a layer that is not supported",
                 folder.string(), a.module, architecture());
    }
  }
  register_adapter(adapter_values_->config, matched, trainable);
  return adapted_;
}

// Values of the adapter's pairs: those that were read, or PEFT's start.
void Model::fill_adapter(uint64_t init_seed) {
  if (!adapter_values_) {
    for (const nn::Linear* l : adapted_) nn::init_lora(*device_, params_, *l, init_seed);
    return;
  }
  const auto layers = by_module(*adapter_values_);
  for (const nn::Linear* l : adapted_) {
    const io::AdapterLayer& layer = *layers.at(l->path);
    write(*device_, params_.value(l->params.lora->a), 0, layer.a);
    write(*device_, params_.value(l->params.lora->b), 0, layer.b);
  }
  adapter_values_.reset();
}

}  // namespace hone::load
