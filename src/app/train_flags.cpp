#include "app/train_flags.h"

#include <algorithm>
#include <filesystem>

#include "app/option_flags.h"
#include "app/pretrained.h"
#include "app/tuning_flags.h"
#include "app/units.h"
#include "app/version.h"
#include "core/error.h"
#include "io/checkpoint.h"

namespace hone::app {

namespace fs = std::filesystem;

namespace {

void add_original(Command& c, TrainFlags& f) {
  c.group("Of the original, for its command lines");
  c.flag("--mixed_precision", f.mixed_precision, "The same as --dtype", "bf16");
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

void check_original(const Command& c, const TrainFlags& f, const train::TrainerOptions& o,
                    std::vector<std::string>& notes) {
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
    if (!fs::equivalent(f.tokenizer_dir, o.pretrained, code))
      user_error("flags",
                 "--tokenizer_dir {} is not the model's folder {}; the tokenizer belongs to the "
                 "model: put its files there",
                 f.tokenizer_dir, o.pretrained);
  }
  std::string same;
  for (const char* flag : {"--plugin", "--zero_stage", "--sp_mode", "--zero_cpu_offload",
                           "--enable_sequence_parallelism"})
    if (c.given(flag)) same += (same.empty() ? "" : ", ") + std::string(flag);
  if (!same.empty())
    notes.push_back(
        fmt::format("note: {} without effect: on one process all of them mean the same", same));
}

// Flags that could not act. At its default a flag may stand anywhere (see above).
void refuse_idle_flags(const Command& c, const train::TrainerOptions& o,
                       std::vector<std::string>& notes) {
  const train::TrainerOptions d;
  const auto needs_eval = [&](const char* flag, bool is_default) {
    if (c.given(flag) && !is_default && o.eval_dataset.empty())
      user_error("flags",
                 "{}: there is nothing to evaluate on; give --eval_dataset too, or leave it out",
                 flag);
  };
  needs_eval("--eval_samples", o.eval_samples == d.eval_samples);
  needs_eval("--eval_max_new_tokens", o.eval_max_new_tokens == d.eval_max_new_tokens);
  if (o.lora_rank > 0 && (o.no_decay.norm || o.no_decay.bias))
    notes.emplace_back(
        "note: --no_decay without effect: with LoRA no normalisation weight and no bias is "
        "trained");
  if (o.max_steps > 0 && c.given("--num_epochs") && o.num_epochs != d.num_epochs)
    notes.push_back(fmt::format(
        "note: --num_epochs without effect: --max_steps {} says how long the run is", o.max_steps));
}

void resume_options(const Command& c, const TrainFlags& f, train::TrainerOptions& o) {
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

void add_run_flags(Command& c, train::TrainerOptions& o, TrainFlags& f) {
  add_flags<train::TuneOptions>(c, "What is tuned", o);
  c.flag("--lora_config", f.lora_config,
         "The original's lora_config.json: r, lora_alpha, dropout, target_modules", "FILE");
  add_flags<train::OptimOptions>(c, "Optimisation", o);
  add_flags<train::MachineOptions>(c, "Memory and machine", o);
  add_flags<train::OutputOptions>(c, "Output", o);
  c.flag("--overwrite", f.overwrite, "Replace the run that is in --save_dir");
  c.flag("--resume,--checkpoint_path", f.resume,
         "Go on: auto (from the newest checkpoint of --save_dir, or afresh where there is none), "
         "or a checkpoint's folder",
         "auto|DIR");
  add_original(c, f);
}

void add_common_flags(Command& c, TrainFlags& f) {
  c.group(kCommonGroup);
  c.config_files();
  c.flag("--config_file", f.config_file, "Also write the effective configuration here, as JSON",
         "FILE");
}

std::vector<std::string> settle_options(const Command& c, const TrainFlags& f,
                                        train::TrainerOptions& o, bool need_data) {
  std::vector<std::string> notes;
  require_pretrained(o.pretrained);
  if (need_data && o.dataset.empty()) user_error("flags", "no data was given; use --dataset FILE");
  check_original(c, f, o, notes);
  if (c.given("--mixed_precision")) {
    const auto mixed = parse_dtype("--mixed_precision", f.mixed_precision);
    if (c.given("--dtype") && mixed != o.dtype)
      user_error("flags", "--dtype {} and --mixed_precision {} contradict each other; use --dtype",
                 o.dtype ? dtype_name(*o.dtype) : "auto", f.mixed_precision);
    o.dtype = mixed;
  }
  settle_tuning(c, f.lora_config, o);
  refuse_idle_flags(c, o, notes);
  resume_options(c, f, o);
  return notes;
}

}  // namespace hone::app
