#include "train/sft_options.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace hone::train {
namespace {

void positive(const char* flag, int64_t value) {
  if (value < 1) user_error(flag, "{} is not a count; use 1 or more", value);
}

// Keeps products of counts far from overflow.
void at_most(const char* flag, int64_t value, int64_t most) {
  if (value > most) user_error(flag, "{} is more than {}; use less", value, most);
}

void not_negative(const char* flag, double value) {
  if (!(value >= 0) || !std::isfinite(value))
    user_error(flag, "{} is not usable; use 0 or a positive number", value);
}

std::string grouped(int64_t n) {
  std::string s = std::to_string(n);
  for (int i = static_cast<int>(s.size()) - 3; i > 0; i -= 3)
    s.insert(static_cast<size_t>(i), 1, ',');
  return s;
}

const char* existing_name(io::ExistingRun e) {
  switch (e) {
    case io::ExistingRun::refuse:
      return "refuse";
    case io::ExistingRun::resume:
      return "resume";
    case io::ExistingRun::overwrite:
      return "overwrite";
  }
  return "";
}

// Whether a run that goes on may have another value.
enum class OnResume { kSame, kFree };

// One line an option: calls v(flag, OnResume, value as in run.json).
template <class V>
void for_each_option(const SftOptions& o, const V& v) {
  using enum OnResume;
  std::vector<std::string> no_decay;
  if (o.no_decay_norm) no_decay.push_back("norm");
  if (o.no_decay_bias) no_decay.push_back("bias");
  v("command", kSame, "sft");
  v("pretrained", kFree, o.pretrained);
  v("adapter", kFree, o.adapter);
  v("dtype", kSame, o.dtype ? std::string(dtype_name(*o.dtype)) : "auto");
  v("dataset", kFree, o.dataset);
  v("eval_dataset", kFree, o.eval_dataset);
  v("dataset_format", kSame, std::string(data::dataset_format_name(o.dataset_format)));
  v("dataset_info", kFree, o.dataset_info);
  v("conversation_template", kFree, o.text.conversation_template);
  v("template_kwargs", kSame, o.text.template_kwargs);
  v("eos_token", kSame, o.text.eos_token);
  v("append_eos", kSame, o.append_eos);
  v("system_prompt", kSame, o.system_prompt);
  v("train_on", kSame,
    o.train_on == TrainOn::kAssistant ? "assistant"
    : o.train_on == TrainOn::kLast    ? "last"
                                      : "all");
  v("max_length", kSame, o.max_length);
  v("shuffle", kSame, o.shuffle);
  v("lora_rank", kSame, o.lora_rank);
  v("lora_alpha", kSame, o.lora_alpha);
  v("lora_dropout", kSame, o.lora_dropout);
  v("use_rslora", kSame, o.use_rslora);
  v("lora_target", kSame, o.lora_target);
  v("lora_layers", kSame, o.lora_layers);
  v("freeze", kSame, o.freeze);
  v("num_epochs", kSame, o.num_epochs);
  v("max_steps", kSame, o.max_steps);
  v("batch_size", kSame, o.batch_size);
  v("accumulation_steps", kSame, o.accumulation_steps);
  v("lr", kSame, o.lr);
  v("lr_scheduler", kSame,
    o.lr_scheduler == optim::Schedule::cosine   ? "cosine"
    : o.lr_scheduler == optim::Schedule::linear ? "linear"
                                                : "constant");
  v("warmup_steps", kSame, o.warmup_steps);
  v("weight_decay", kSame, o.weight_decay);
  v("adam_beta1", kSame, o.adam_beta1);
  v("adam_beta2", kSame, o.adam_beta2);
  v("adam_eps", kSame, o.adam_eps);
  v("no_decay", kSame, no_decay);
  v("grad_clip", kSame, o.grad_clip);
  v("seed", kSame, o.seed);
  v("on_nonfinite", kFree, o.on_nonfinite == OnNonFinite::stop ? "stop" : "skip");
  v("grad_checkpoint", kFree, o.grad_checkpoint);
  v("micro_batch_tokens", kFree, o.micro_batch_tokens);
  v("memory", kFree, o.memory);
  v("threads", kFree, o.threads);
  v("save_dir", kFree, o.save_dir);
  v("existing", kFree, existing_name(o.existing));
  v("save_steps", kFree, o.save_steps);
  v("save_total_limit", kFree, o.save_total_limit);
  v("on_save_error", kFree, o.on_save_error == OnSaveError::stop ? "stop" : "continue");
  v("tensorboard_dir", kFree, o.tensorboard_dir);
  v("eval_steps", kFree, o.eval_steps);
  v("keep_best", kSame, o.keep_best);
  v("early_stopping", kSame, o.early_stopping);
  v("eval_samples", kFree, o.eval_samples);
  v("eval_max_new_tokens", kFree, o.eval_max_new_tokens);
}

}  // namespace

void check_options(const SftOptions& o) {
  if (o.pretrained.empty())
    user_error("pretrained", "no model folder was given; use --pretrained DIR");
  if (o.dataset.empty()) user_error("dataset", "no data was given; use --dataset FILE");
  positive("num_epochs", o.num_epochs);
  positive("batch_size", o.batch_size);
  positive("accumulation_steps", o.accumulation_steps);
  at_most("num_epochs", o.num_epochs, 1'000'000);
  at_most("batch_size", o.batch_size, 1'000'000'000);
  at_most("accumulation_steps", o.accumulation_steps, 1'000'000'000);
  if (o.max_length < 2)
    user_error("max_length", "{} leaves nothing to predict; use 2 or more", o.max_length);
  if (o.max_steps < 0) user_error("max_steps", "{} is negative; use 0 for no limit", o.max_steps);
  if (!(o.lr > 0) || !std::isfinite(o.lr))
    user_error("lr", "{} is not a learning rate; use a positive number such as 2e-5", o.lr);
  not_negative("weight_decay", o.weight_decay);
  not_negative("grad_clip", o.grad_clip);
  if (!(o.adam_beta1 >= 0 && o.adam_beta1 < 1))
    user_error("adam_beta1", "{} is not in [0, 1)", o.adam_beta1);
  if (!(o.adam_beta2 >= 0 && o.adam_beta2 < 1))
    user_error("adam_beta2", "{} is not in [0, 1)", o.adam_beta2);
  if (!(o.adam_eps > 0) || !std::isfinite(o.adam_eps))
    user_error("adam_eps", "{} is not a positive number", o.adam_eps);
  if (o.lora_rank < 0 || o.lora_rank > 4096) {
    user_error("lora_rank", "{} is not usable; use 0 for full tuning or 1 to 4096", o.lora_rank);
  }
  if (o.lora_rank > 0 || !o.adapter.empty()) {
    if (!(o.lora_dropout >= 0 && o.lora_dropout < 1))
      user_error("lora_dropout", "{} is not in [0, 1)", o.lora_dropout);
    if (!(o.lora_alpha > 0) || !std::isfinite(o.lora_alpha))
      user_error("lora_alpha", "{} is not a positive number", o.lora_alpha);
    if (!o.freeze.empty())
      user_error(
          "freeze",
          "with LoRA the base model is frozen anyway; leave --freeze out or use --lora_rank 0");
  }
  if (o.save_steps < 0)
    user_error("save_steps", "{} is negative; use 0 to save at the end only", o.save_steps);
  if (o.save_total_limit < 0)
    user_error("save_total_limit", "{} is negative; use 0 to keep all", o.save_total_limit);
  if (o.eval_steps < 0)
    user_error("eval_steps", "{} is negative; use 0 for the end of each epoch", o.eval_steps);
  if (o.early_stopping < 0)
    user_error("early_stopping", "{} is negative; use 0 for a run that isn't ended early",
               o.early_stopping);
  if (o.eval_dataset.empty() && (o.keep_best || o.early_stopping > 0))
    user_error(o.keep_best ? "keep_best" : "early_stopping",
               "there is nothing to evaluate on; give --eval_dataset too");
  if (o.eval_steps > 0 && o.eval_dataset.empty())
    user_error("eval_steps", "there is nothing to evaluate on; give --eval_dataset too");
  if (o.micro_batch_tokens < 0)
    user_error("micro_batch_tokens", "{} is negative; use 0 to let hone choose",
               o.micro_batch_tokens);
  if (o.threads < 0) user_error("threads", "{} is negative; use 0 for all", o.threads);
  if (o.dtype == DType::f64) user_error("dtype", "fp64 is not for training; use bf16 or fp32");
}

io::AdapterConfig adapter_config(const SftOptions& o) {
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

nlohmann::json options_json(const SftOptions& o) {
  nlohmann::json j;
  for_each_option(o, [&](const char* flag, OnResume, const auto& value) { j[flag] = value; });
  return j;
}

nlohmann::json options_identity(const SftOptions& o) {
  nlohmann::json j;
  for_each_option(o, [&](const char* flag, OnResume on_resume, const auto& value) {
    if (on_resume == OnResume::kSame) j[flag] = value;
  });
  return j;
}

std::string warmup_warning(int64_t warmup, int64_t steps, double lr) {
  if (warmup < 2 || warmup < steps) return "";
  return fmt::format(
      "the warm-up of {} steps takes the whole run of {}: the learning rate ends at {:.3g} of --lr "
      "{:.3g}; use a smaller --warmup_steps, or train longer",
      warmup, steps, lr * static_cast<double>(steps) / static_cast<double>(warmup), lr);
}

void set_up_tuning(load::Model& model, const SftOptions& o) {
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

int64_t effective_max_length(const SftOptions& o, const models::ModelConfig& config) {
  if (config.max_position_embeddings <= 0) return o.max_length;
  return std::min(o.max_length, config.max_position_embeddings);
}

data::DatasetOptions dataset_options(const SftOptions& o, const std::vector<std::string>& paths,
                                     const models::ModelConfig& config) {
  data::DatasetOptions d;
  d.paths = paths;
  d.format = o.dataset_format;
  d.dataset_info = o.dataset_info;
  d.max_length = effective_max_length(o, config);
  d.train_on = o.train_on;
  d.system_prompt = o.system_prompt;
  d.append_eos = o.append_eos;
  d.vocab_limit = config.vocab_size;
  d.threads = o.threads;
  return d;
}

}  // namespace hone::train
