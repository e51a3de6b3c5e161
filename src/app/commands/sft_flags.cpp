#include "app/commands/sft_flags.h"

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/model_flags.h"
#include "app/pretrained.h"
#include "app/units.h"
#include "app/version.h"
#include "core/error.h"
#include "core/json_fields.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/peft_targets.h"
#include "models/decoder.h"
#include "train/sft_options.h"

namespace hone::app {

namespace fs = std::filesystem;

struct SftFlags {
  train::SftOptions o;
  // What needs a look before it is an option.
  std::string dtype = "auto", mixed_precision = "bf16", dataset_format = "auto";
  std::string train_on = "assistant", shuffle = "true", append_eos = "true";
  std::string lr_scheduler = "cosine";
  std::string warmup_steps, memory, resume, on_nonfinite = "stop", on_save_error = "stop";
  std::vector<std::string> lora_target = {"all-linear"}, lora_layers, no_decay, freeze;
  std::string lora_config, config_file, tokenizer_dir;
  bool overwrite = false, disable_loss_mask = false;
  // Of the original, without effect on one process.
  std::string plugin = "zero2", sp_mode = "split_gather";
  int64_t tp = 1, pp = 1, sp = 1, ep = 1, zero_stage = 1;
  std::string microbatch_size;
  bool flash = false, sequence_parallelism = false, cpu_offload = false, wandb = false;
};

namespace {

void add_model_and_data(Command& c, SftFlags& f) {
  train::SftOptions& o = f.o;
  c.group("Model and data");
  c.flag("-m,--pretrained,--pretrain", o.pretrained,
         "The model: a Hugging Face folder (config.json, safetensors, tokenizer.json)", "DIR");
  c.flag("--adapter", o.adapter, "Go on from this PEFT adapter; it gives rank, alpha and targets",
         "DIR");
  c.flag("--dtype", f.dtype, "What to compute in; auto: the model's type, bf16 for fp16 models",
         "auto|bf16|fp32");
  c.flag("-d,--dataset", o.dataset,
         "Data: JSONL, JSON or text files, folders of them; chats, ShareGPT, Alpaca, plain text, "
         "token lists",
         "FILE...");
  c.flag("--eval_dataset", o.eval_dataset, "Data that is not trained on, for the eval loss",
         "FILE...");
  c.choice("--dataset_format", f.dataset_format,
           {"auto", "messages", "sharegpt", "alpaca", "prompt_completion", "qa", "text", "tokens"},
           "What a record is");
  c.flag("--dataset_info", o.dataset_info,
         "LLaMA-Factory's dataset_info.json: then --dataset takes names in it", "FILE");
  add_text_flags(c, o.text);
  c.choice("--append_eos", f.append_eos, {"true", "false"},
           "The end-of-text token behind plain texts ({\"text\"}, {\"prompt\", \"completion\"})");
  c.flag("--system_prompt", o.system_prompt, "Put before chats that have no system message");
  c.choice("--train_on", f.train_on, {"assistant", "last", "all"},
           "Tokens that are trained: assistant turns, the last of them, or every token");
  c.flag("--max_length,--max_len", o.max_length, "Tokens of a sample, cut on the right");
  c.choice("--shuffle", f.shuffle, {"true", "false"}, "A new order every epoch");
}

void add_tuning(Command& c, SftFlags& f) {
  train::SftOptions& o = f.o;
  c.group("What is tuned");
  c.flag("--lora_rank", o.lora_rank, "Rank of the LoRA adapter; 0: full tuning");
  c.flag("--lora_alpha", o.lora_alpha, "Scale: the adapter counts alpha / rank");
  c.flag("--lora_dropout", o.lora_dropout, "Dropout on the adapter's input");
  c.flag("--use_rslora", o.use_rslora, "Scale by alpha / sqrt(rank) instead");
  c.flag("--lora_target", f.lora_target,
         "Layers with an adapter: names (q_proj,v_proj), suffixes, a regular expression, or "
         "all-linear: every linear layer of the blocks",
         "NAME...");
  c.flag("--lora_layers", f.lora_layers, "Only these blocks, such as 0,1,5-7", "N...");
  c.flag("--lora_config", f.lora_config,
         "The original's lora_config.json: r, lora_alpha, dropout, target_modules", "FILE");
  c.flag("--freeze", f.freeze,
         "Full tuning: parameters that stay as they are (model.embed_tokens.*)", "PATTERN...");
}

void add_optimisation(Command& c, SftFlags& f) {
  train::SftOptions& o = f.o;
  c.group("Optimisation");
  c.flag("-n,--num_epochs,--max_epochs", o.num_epochs, "Passes over the data");
  c.flag("--max_steps", o.max_steps, "Optimizer steps instead; 0: as many as the epochs have");
  c.flag("--batch_size", o.batch_size, "Samples of an optimizer step ...");
  c.flag("--accumulation_steps", o.accumulation_steps, "... times this");
  c.flag("--lr", o.lr, "Learning rate");
  c.choice("--lr_scheduler", f.lr_scheduler, {"cosine", "linear", "constant"},
           "After the warm-up: cosine to a tenth, linear to 0, or constant");
  c.flag("--warmup_steps", f.warmup_steps, "Steps of linear warm-up; not given: 2.5% of all", "N");
  c.flag("--weight_decay", o.weight_decay, "AdamW's decay, on every trained tensor");
  c.flag("--no_decay", f.no_decay, "No decay on norm (normalisation weights), bias, or both",
         "norm,bias");
  c.flag("--adam_beta1", o.adam_beta1, "AdamW's beta 1");
  c.flag("--adam_beta2", o.adam_beta2, "AdamW's beta 2");
  c.flag("--adam_eps", o.adam_eps, "AdamW's epsilon");
  c.flag("--grad_clip", o.grad_clip, "Largest global norm of the gradient; 0: not clipped");
  c.flag("--seed", o.seed, "Of order, dropout and adapter initialisation");
  c.choice("--on_nonfinite", f.on_nonfinite, {"stop", "skip"},
           "A step whose loss or gradient isn't finite: stop, or skip and count it");
}

void add_machine(Command& c, SftFlags& f) {
  train::SftOptions& o = f.o;
  c.group("Memory and machine");
  c.flag("-g,--use_grad_checkpoint,--grad_checkpoint", o.grad_checkpoint,
         "Keep only the blocks' inputs and compute the rest again: less memory, a third more work");
  c.flag("--micro_batch_tokens", o.micro_batch_tokens,
         "Tokens computed at once; memory follows it, results don't; 0: chosen");
  c.flag("--memory", f.memory, "Stay below this much memory", "6GiB");
  c.flag("--threads", o.threads, "Threads; 0: all cores");
  c.flag("--profile", o.profile, "Write a Chrome trace of one step here", "FILE");
}

void add_output(Command& c, SftFlags& f) {
  train::SftOptions& o = f.o;
  c.group("Output");
  c.flag("--save_dir,--save_path", o.save_dir,
         "The run's folder: adapter or weights, run.json, metrics.jsonl, checkpoints/", "DIR");
  c.flag("--overwrite", f.overwrite, "Replace the run that is in --save_dir");
  c.flag("--resume,--checkpoint_path", f.resume,
         "Go on: auto (from the newest checkpoint of --save_dir, or afresh where there is none), "
         "or a checkpoint's folder",
         "auto|DIR");
  c.flag("--save_steps,--save_interval", o.save_steps,
         "Save a checkpoint every N steps; 0: only at the end and on Ctrl-C");
  c.flag("--save_total_limit", o.save_total_limit, "Checkpoints kept; 0: all");
  c.choice("--on_save_error", f.on_save_error, {"stop", "continue"},
           "A checkpoint can't be written (a full disk): stop, or go on with the last good one");
  c.flag("--tensorboard_dir,--log_dir", o.tensorboard_dir, "TensorBoard events go here", "DIR");
  c.flag("--eval_steps", o.eval_steps, "Evaluate every N steps; 0: after each epoch");
  c.flag("--keep_best", o.keep_best,
         "The result is the state with the lowest eval loss, whose checkpoint is kept");
  c.flag(
      "--early_stopping", o.early_stopping,
      "End the run after N evaluations in a row that lowered the eval loss no further; 0: never");
  c.flag("--eval_samples", o.eval_samples, "Answers shown at an evaluation");
  c.flag("--eval_max_new_tokens", o.eval_max_new_tokens, "Longest of them, in tokens");
  c.flag("--self_check", o.self_check,
         "First show that the step does not depend on how it is packed");
}

void add_original(Command& c, SftFlags& f) {
  c.group("Of the original, for its command lines");
  c.flag("--mixed_precision", f.mixed_precision, "The same as --dtype", "bf16");
  c.flag("--disable_loss_mask", f.disable_loss_mask, "The same as --train_on all");
  c.flag("-f,--use_flash_attn", f.flash, "Always so");
  c.flag("-p,--plugin", f.plugin, "On one process they mean the same",
         "zero2|ddp|gemini|gemini_auto|zero2_cpu|3d|moe");
  c.flag("--zero_stage", f.zero_stage, "0, 1 or 2; on one process they mean the same");
  c.flag("--zero_cpu_offload", f.cpu_offload, "Always so: optimizer state is in the main memory");
  c.flag("--tp", f.tp, "Tensor parallel size: 1");
  c.flag("--pp", f.pp, "Pipeline parallel size: 1");
  c.flag("--sp", f.sp, "Sequence parallel size: 1");
  c.flag("--ep", f.ep, "Expert parallel size: 1");
  c.choice("--sp_mode", f.sp_mode, {"split_gather", "ring", "all_to_all"},
           "Without effect while --sp is 1");
  c.flag("--enable_sequence_parallelism", f.sequence_parallelism, "Without effect while --sp is 1");
  c.flag("--microbatch_size", f.microbatch_size, "Not here: use --micro_batch_tokens", "N");
  c.flag("--tokenizer_dir", f.tokenizer_dir, "Must be the model's folder", "DIR");
  c.flag("--use_wandb", f.wandb, "Not here: use --tensorboard_dir or metrics.jsonl");
}

void check_original(const Command& c, const SftFlags& f, SftRequest& r) {
  const auto one = [&](const char* flag, int64_t value) {
    if (value != 1)
      user_error("flags",
                 "{} {}: this version runs as one process, whose threads use all cores; leave the "
                 "flag out",
                 flag, value);
  };
  one("--tp", f.tp);
  one("--pp", f.pp);
  one("--sp", f.sp);
  one("--ep", f.ep);
  static const std::vector<std::string> kPlugins = {"zero2", "ddp", "gemini",   "gemini_auto",
                                                    "moe",   "3d",  "zero2_cpu"};
  if (std::find(kPlugins.begin(), kPlugins.end(), f.plugin) == kPlugins.end())
    user_error("flags", "--plugin {} is not known, and on one process none is needed{}", f.plugin,
               did_you_mean(f.plugin, kPlugins));
  if (f.zero_stage < 0 || f.zero_stage > 2)
    user_error("flags", "--zero_stage {}: there are 0, 1 and 2, which mean the same on one process",
               f.zero_stage);
  if (c.given("--microbatch_size"))
    user_error("flags",
               "--microbatch_size {}: micro-batches are made by tokens here, not by samples; use "
               "--micro_batch_tokens",
               f.microbatch_size);
  if (f.wandb)
    user_error("flags",
               "--use_wandb: hone sends nothing out; use --tensorboard_dir DIR, or read "
               "metrics.jsonl in the run's folder");
  if (!f.tokenizer_dir.empty()) {
    std::error_code code;
    if (!fs::equivalent(f.tokenizer_dir, f.o.pretrained, code))
      user_error("flags",
                 "--tokenizer_dir {} is not the model's folder {}; the tokenizer belongs to the "
                 "model: put its files there",
                 f.tokenizer_dir, f.o.pretrained);
  }
  std::string same;
  for (const char* flag : {"--plugin", "--zero_stage", "--sp_mode", "--zero_cpu_offload",
                           "--enable_sequence_parallelism"})
    if (c.given(flag)) same += (same.empty() ? "" : ", ") + std::string(flag);
  if (!same.empty())
    r.notes.push_back(
        fmt::format("note: {} without effect: on one process all of them mean the same", same));
}

// The original's lora_config.json.
void read_lora_config(const Command& c, const SftFlags& f, train::SftOptions& o) {
  const std::string tag = "lora_config";
  const nlohmann::json json =
      parse_json_object(io::read_text_file(f.lora_config, 1 << 20), tag, f.lora_config);
  JsonFields fields(json, tag, f.lora_config);
  const auto same = [&](const char* flag, bool equal, const std::string& value) {
    if (c.given(flag) && !equal)
      user_error("flags", "{} differs from {}, which says {}; leave one of them out", flag,
                 f.lora_config, value);
  };
  const int64_t rank = fields.integer("r", 0, 4096).value_or(0);
  same("--lora_rank", rank == o.lora_rank, std::to_string(rank));
  o.lora_rank = rank;
  const double alpha = fields.number("lora_alpha", 0, 1e9).value_or(32);
  same("--lora_alpha", alpha == o.lora_alpha, fmt::format("{:g}", alpha));
  o.lora_alpha = alpha;
  double dropout = fields.number("linear_lora_dropout", 0, 1).value_or(0.1);
  for (const char* name : {"lora_dropout", "dropout"})
    if (const auto v = fields.number(name, 0, 1)) dropout = *v;
  same("--lora_dropout", dropout == o.lora_dropout, fmt::format("{:g}", dropout));
  o.lora_dropout = dropout;
  if (fields.number("embedding_lora_dropout", 0, 1).value_or(0) != 0)
    user_error(tag, "{}: embedding_lora_dropout: embeddings get no adapter here; set it to 0",
               f.lora_config);
  const std::string init = fields.text("lora_initialization_method").value_or("kaiming_uniform");
  if (init != "kaiming_uniform")
    user_error(tag,
               "{}: lora_initialization_method \"{}\" is not here; use \"kaiming_uniform\", which "
               "leaves the base model's weights as they are",
               f.lora_config, init);
  const std::string bias = fields.text("lora_train_bias").value_or("none");
  if (bias != "none")
    user_error(tag, "{}: lora_train_bias \"{}\" is not here; use \"none\"", f.lora_config, bias);
  if (const auto targets = fields.texts("target_modules")) {
    same("--lora_target", *targets == o.lora_target, fmt::format("{}", fmt::join(*targets, ",")));
    o.lora_target = *targets;
  }
  for (const std::string& name : fields.unknown())
    user_error(tag,
               "{}: \"{}\" is not known; use r, lora_alpha, linear_lora_dropout, target_modules",
               f.lora_config, name);
}

// LoRA's flags mean nothing to full tuning, which is not what their user meant. A rank of 0 in so
// many words may stand beside defaults: run.json and --config_file write every flag.
void refuse_lora_flags(const Command& c, const SftFlags& f, const train::SftOptions& o) {
  if (!f.lora_config.empty())
    user_error("flags",
               "--lora_config {}: it gives no rank (r), which means full tuning; give it an r such "
               "as 8, or leave --lora_config out",
               f.lora_config);
  const train::SftOptions d;
  const struct {
    const char* name;
    bool is_default;
  } flags[] = {{"--lora_alpha", o.lora_alpha == d.lora_alpha},
               {"--lora_dropout", o.lora_dropout == d.lora_dropout},
               {"--use_rslora", o.use_rslora == d.use_rslora},
               {"--lora_target", o.lora_target == d.lora_target},
               {"--lora_layers", o.lora_layers == d.lora_layers}};
  for (const auto& flag : flags) {
    if (!c.given(flag.name) || (c.given("--lora_rank") && flag.is_default)) continue;
    user_error(
        "flags",
        "{} without a rank: --lora_rank is 0, which tunes the whole model; add --lora_rank 8 "
        "for a LoRA adapter, or leave {} out",
        flag.name, flag.name);
  }
}

// Flags that could not act. At its default a flag may stand anywhere (see above).
void refuse_idle_flags(const Command& c, SftRequest& r) {
  const train::SftOptions &o = r.options, d;
  const auto needs_eval = [&](const char* flag, bool is_default) {
    if (c.given(flag) && !is_default && o.eval_dataset.empty())
      user_error("flags",
                 "{}: there is nothing to evaluate on; give --eval_dataset too, or leave it out",
                 flag);
  };
  needs_eval("--eval_samples", o.eval_samples == d.eval_samples);
  needs_eval("--eval_max_new_tokens", o.eval_max_new_tokens == d.eval_max_new_tokens);
  if (o.lora_rank > 0 && (o.no_decay_norm || o.no_decay_bias))
    r.notes.emplace_back(
        "note: --no_decay without effect: with LoRA no normalisation weight and no bias is "
        "trained");
  if (o.max_steps > 0 && c.given("--num_epochs") && o.num_epochs != d.num_epochs)
    r.notes.push_back(fmt::format(
        "note: --num_epochs without effect: --max_steps {} says how long the run is", o.max_steps));
}

std::vector<std::string> target_list(const io::AdapterConfig& config) {
  return config.target_expression.empty() ? config.target_modules
                                          : std::vector<std::string>{config.target_expression};
}

// The layers of the model that the config selects, whatever its form.
std::vector<std::string> targets_in(const std::string& pretrained,
                                    const io::AdapterConfig& config) {
  ParamStore store;
  models::Decoder decoder(models::load_model_config(pretrained), store, Format::f32);
  const io::AdapterRules rules(config);
  std::vector<std::string> paths;
  for (const nn::Linear* l : decoder.linears())
    if (rules.targets(l->path)) paths.push_back(l->path);
  return paths;
}

// An existing adapter says how it is made; flags may repeat it, in other words, too.
void follow_adapter(const Command& c, const SftFlags& f, train::SftOptions& o) {
  if (!f.lora_config.empty())
    user_error("flags",
               "--adapter and --lora_config contradict each other: the adapter in {} says "
               "its rank, alpha and targets itself",
               o.adapter);
  const io::AdapterConfig config = io::read_adapter_config(o.adapter);
  const auto same = [&](const char* flag, bool equal, const std::string& value) {
    if (c.given(flag) && !equal)
      user_error("flags", "{} differs from the adapter in {}, which has {}; leave the flag out",
                 flag, o.adapter, value);
  };
  same("--lora_rank", o.lora_rank == config.r, std::to_string(config.r));
  same("--lora_alpha", o.lora_alpha == config.alpha, fmt::format("{:g}", config.alpha));
  same("--lora_dropout", o.lora_dropout == config.dropout, fmt::format("{:g}", config.dropout));
  same("--use_rslora", o.use_rslora == config.use_rslora, config.use_rslora ? "it on" : "it off");
  if (c.given("--lora_target") || c.given("--lora_layers")) {
    const bool equal =
        targets_in(o.pretrained, train::adapter_config(o)) == targets_in(o.pretrained, config);
    same("--lora_target", equal, fmt::format("{}", fmt::join(target_list(config), ",")));
    same("--lora_layers", equal,
         config.layers_to_transform.empty()
             ? "all"
             : fmt::format("{}", fmt::join(config.layers_to_transform, ",")));
  }
  o.lora_rank = config.r;
  o.lora_alpha = config.alpha;
  o.lora_dropout = config.dropout;
  o.use_rslora = config.use_rslora;
  o.lora_target = target_list(config);
  o.lora_layers = config.layers_to_transform;
}

void resume_options(const Command& c, const SftFlags& f, train::SftOptions& o) {
  if (f.overwrite && !f.resume.empty())
    user_error("flags", "--overwrite and --resume contradict each other; use one of them");
  if (f.overwrite) o.existing = io::ExistingRun::overwrite;
  if (f.resume.empty()) return;
  o.existing = io::ExistingRun::resume;
  if (f.resume == "auto") {
    o.resume_auto = true;
    return;
  }
  fs::path folder = f.resume;
  if (!fs::is_directory(folder))
    user_error("resume", "{} is not a folder; give a checkpoint's folder, or auto", f.resume);
  fs::path run;
  if (fs::is_directory(folder / "checkpoints")) {  // a run's folder: its newest checkpoint
    run = folder;
    const auto newest = io::latest_checkpoint(folder / "checkpoints");
    if (!newest)
      user_error("resume", "{} has no checkpoint to resume from; use --resume auto to start afresh",
                 f.resume);
    folder = *newest;
  } else {
    if (!folder.has_filename()) folder = folder.parent_path();
    const fs::path parent = fs::absolute(folder).parent_path();
    if (parent.filename() == "checkpoints") run = parent.parent_path();
  }
  o.resume_from = folder.string();
  if (!c.given("--save_dir") && !run.empty()) o.save_dir = run.string();
}

}  // namespace

std::shared_ptr<SftFlags> add_sft_flags(Command& c) {
  auto f = std::make_shared<SftFlags>();
  add_model_and_data(c, *f);
  add_tuning(c, *f);
  add_optimisation(c, *f);
  add_machine(c, *f);
  add_output(c, *f);
  add_original(c, *f);
  c.group(kCommonGroup);
  c.config_files();
  c.flag("--config_file", f->config_file, "Also write the effective configuration here, as JSON",
         "FILE");
  return f;
}

SftRequest sft_request(const Command& c, const SftFlags& f, bool need_data) {
  SftRequest r;
  train::SftOptions& o = r.options;
  o = f.o;
  require_pretrained(o.pretrained);
  if (need_data && o.dataset.empty()) user_error("flags", "no data was given; use --dataset FILE");
  check_original(c, f, r);
  o.dtype = parse_dtype("--dtype", f.dtype);
  if (c.given("--mixed_precision")) {
    const auto mixed = parse_dtype("--mixed_precision", f.mixed_precision);
    if (c.given("--dtype") && mixed != o.dtype)
      user_error("flags", "--dtype {} and --mixed_precision {} contradict each other; use --dtype",
                 f.dtype, f.mixed_precision);
    o.dtype = mixed;
  }
  o.dataset_format = data::parse_dataset_format(f.dataset_format);
  o.train_on = parse_train_on(f.train_on);
  if (f.disable_loss_mask) {
    if (c.given("--train_on") && o.train_on != TrainOn::kAll)
      user_error("flags",
                 "--disable_loss_mask and --train_on {} contradict each other; use "
                 "--train_on",
                 f.train_on);
    o.train_on = TrainOn::kAll;
  }
  o.shuffle = f.shuffle == "true";
  o.append_eos = f.append_eos == "true";
  o.lr_scheduler = f.lr_scheduler == "cosine"   ? optim::Schedule::cosine
                   : f.lr_scheduler == "linear" ? optim::Schedule::linear
                                                : optim::Schedule::constant;
  if (!f.warmup_steps.empty() && f.warmup_steps != "-1" && f.warmup_steps != "auto") {
    const char* end = f.warmup_steps.data() + f.warmup_steps.size();
    const auto [rest, code] = std::from_chars(f.warmup_steps.data(), end, o.warmup_steps);
    if (code != std::errc() || rest != end || o.warmup_steps < 0)
      user_error("flags", "--warmup_steps {}: this is not a number of steps; use 100, 0 or auto",
                 f.warmup_steps);
  }
  o.no_decay_norm = o.no_decay_bias = false;
  for (const std::string& word : comma_list(f.no_decay)) {
    if (word == "norm") {
      o.no_decay_norm = true;
    } else if (word == "bias") {
      o.no_decay_bias = true;
    } else {
      user_error("flags", "--no_decay {} is not known; use norm, bias or norm,bias", word);
    }
  }
  o.on_nonfinite = f.on_nonfinite == "stop" ? train::OnNonFinite::stop : train::OnNonFinite::skip;
  o.on_save_error =
      f.on_save_error == "stop" ? train::OnSaveError::stop : train::OnSaveError::go_on;
  o.memory = f.memory.empty() ? 0 : parse_memory("--memory", f.memory);
  // A regular expression may hold commas.
  const bool expression = f.lora_target.size() == 1 &&
                          f.lora_target[0].find_first_of("*()[]|\\+^$") != std::string::npos;
  o.lora_target = expression ? f.lora_target : comma_list(f.lora_target);
  if (o.lora_target.empty())
    user_error("flags", "--lora_target names nothing; use all-linear or names such as q_proj");
  o.lora_layers = number_list("--lora_layers", f.lora_layers);
  o.freeze = comma_list(f.freeze);
  if (!f.lora_config.empty()) read_lora_config(c, f, o);
  if (!o.adapter.empty()) {
    follow_adapter(c, f, o);
  } else if (o.lora_rank == 0) {
    refuse_lora_flags(c, f, o);
  }
  refuse_idle_flags(c, r);
  resume_options(c, f, o);
  r.config_file = f.config_file;
  return r;
}

}  // namespace hone::app
