#include "train/tuning.h"

#include <fnmatch.h>

#include <map>

namespace hone::train {
namespace {

std::string grouped(int64_t n) {
  std::string s = std::to_string(n);
  for (int i = static_cast<int>(s.size()) - 3; i > 0; i -= 3)
    s.insert(static_cast<size_t>(i), 1, ',');
  return s;
}

}  // namespace

io::AdapterConfig adapter_config(const TrainerOptions& o) {
  io::AdapterConfig c;
  c.r = o.lora_rank;
  c.alpha = o.lora_alpha;
  c.dropout = o.lora_dropout;
  c.use_rslora = o.use_rslora;
  if (o.lora_target.size() == 1 &&
      (o.lora_target[0] == "all-linear" ||
       o.lora_target[0].find_first_of("*()[]|\\+^$") != std::string::npos)) {
    c.target_expression = o.lora_target[0];
  } else {
    c.target_modules = o.lora_target;
  }
  c.layers_to_transform = o.lora_layers;
  c.base_model_name_or_path = o.pretrained;
  return c;
}

void set_up_tuning(load::Model& model, const TrainerOptions& o) {
  if (!o.adapter.empty()) {
    model.load_adapter(o.adapter, /*trainable=*/true);
    return;
  }
  if (o.lora_rank > 0) {
    model.add_adapter(adapter_config(o));
    return;
  }
  ParamStore& params = model.params();
  std::vector<bool> used(o.freeze.size(), false);
  for (ParamId id = 0; id < params.count(); ++id) {
    bool frozen = false;
    for (size_t i = 0; i < o.freeze.size(); ++i) {
      if (fnmatch(o.freeze[i].c_str(), params.spec(id).name.c_str(), 0) != 0) continue;
      frozen = true;
      used[i] = true;
    }
    params.set_trainable(id, !frozen);
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) {
      user_error("freeze",
                 "\"{}\" matches no parameter; patterns are of whole names, such as "
                 "model.embed_tokens.* or model.layers.0.*",
                 o.freeze[i]);
    }
  }
  if (params.trainable().empty())
    user_error("freeze", "everything is frozen: nothing is left to train");
}

std::vector<std::string> tuning_table(load::Model& model) {
  ParamStore& params = model.params();
  // Layers of equal name and shape share a row; numbers in names become *.
  struct Row {
    int64_t count = 0, each = 0;
    std::string shape;
  };
  std::map<std::string, Row> rows;
  std::vector<std::string> order;
  int64_t trained = 0, total = 0;
  for (ParamId id = 0; id < params.count(); ++id) {
    const ParamSpec& s = params.spec(id);
    total += s.numel();
    if (!s.trainable) continue;
    trained += s.numel();
    std::string name = s.name;
    if (name.starts_with("base_model.model.")) name = name.substr(17);
    std::string key;
    for (size_t i = 0; i < name.size();) {
      const size_t dot = std::min(name.find('.', i), name.size());
      const std::string part = name.substr(i, dot - i);
      const bool number =
          !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
      key += (key.empty() ? "" : ".") + (number ? std::string("*") : part);
      i = dot + 1;
    }
    auto [it, fresh] = rows.try_emplace(key);
    if (fresh) order.push_back(key);
    it->second.count += 1;
    it->second.each = s.numel();
    it->second.shape = s.shape.size() == 2 ? fmt::format("{} x {}", s.shape[0], s.shape[1])
                                           : fmt::format("{}", s.shape[0]);
  }
  std::vector<std::string> lines;
  lines.push_back(
      fmt::format("{:<52} {:>7} {:>16} {:>15}", "trained", "tensors", "shape", "parameters"));
  for (const std::string& key : order) {
    const Row& r = rows[key];
    lines.push_back(fmt::format("{:<52} {:>7} {:>16} {:>15}", key, r.count, r.shape,
                                grouped(r.count * r.each)));
  }
  lines.push_back(fmt::format("trained {} of {} parameters ({:.3f}%)", grouped(trained),
                              grouped(total),
                              100.0 * static_cast<double>(trained) / static_cast<double>(total)));
  return lines;
}

Context load_to_train(load::Model& model, const TrainerOptions& o) {
  model.load(o.seed);
  Context ctx = model.context();
  ctx.policy = o.grad_checkpoint ? BlockPolicy::recompute : BlockPolicy::keep;
  ctx.seed = o.seed;
  return ctx;
}

std::unique_ptr<optim::AdamW> make_optimizer(Context& ctx, const OptimOptions& o) {
  ctx.params->allocate_gradients(*ctx.device->arena);
  return std::make_unique<optim::AdamW>(ctx, optim::AdamWOptions{.beta1 = o.adam_beta1,
                                                                 .beta2 = o.adam_beta2,
                                                                 .eps = o.adam_eps,
                                                                 .weight_decay = o.weight_decay,
                                                                 .decay_norm = !o.no_decay.norm,
                                                                 .decay_bias = !o.no_decay.bias});
}

}  // namespace hone::train
