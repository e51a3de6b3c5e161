// The options of trainers, in groups that they share: one field a flag, of the same name where not
// said; defaults as the flag's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "io/run_folder.h"
#include "optim/adamw.h"
#include "text/conversation.h"

namespace hone::train {

enum class OnNonFinite { stop, skip };
enum class OnSaveError { stop, go_on };

struct ModelOptions {
  std::string pretrained;
  std::string adapter;         // --adapter: an existing PEFT adapter to go on from
  std::optional<DType> dtype;  // null: auto
};

struct DataOptions {
  std::vector<std::string> dataset;
  std::vector<std::string> eval_dataset;
  data::DatasetFormat dataset_format = data::DatasetFormat::kAuto;
  std::string dataset_info;
  data::TextModelOptions text;  // --conversation_template, --template_kwargs, --eos_token
  bool append_eos = true;
  std::string system_prompt;
  TrainOn train_on = TrainOn::kAssistant;
  int64_t max_length = 8192;
  bool shuffle = true;
};

struct TuneOptions {
  int64_t lora_rank = 0;  // 0: full tuning, as in the original
  double lora_alpha = 8;
  double lora_dropout = 0;
  bool use_rslora = false;
  std::vector<std::string> lora_target = {"all-linear"};
  std::vector<int64_t> lora_layers;  // empty: all
  std::vector<std::string>
      freeze;  // full tuning: patterns (* and ?) of parameters that stay as they are
};

struct OptimOptions {
  int64_t num_epochs = 1;
  int64_t max_steps = 0;           // 0: no limit
  int64_t batch_size = 2;          // samples a step ...
  int64_t accumulation_steps = 1;  // ... times this
  double lr = 3e-4;
  optim::Schedule lr_scheduler = optim::Schedule::cosine;
  int64_t warmup_steps = -1;  // -1: 2.5% of all steps
  double weight_decay = 0.1;
  double adam_beta1 = 0.9, adam_beta2 = 0.95, adam_eps = 1e-8;
  bool no_decay_norm = false, no_decay_bias = false;
  double grad_clip = 1.0;
  uint64_t seed = 42;
  OnNonFinite on_nonfinite = OnNonFinite::stop;
};

struct MachineOptions {
  bool grad_checkpoint = false;    // -g
  int64_t micro_batch_tokens = 0;  // 0: chosen
  size_t memory = 0;               // bytes; 0: no promise asked for
  size_t arena_limit =
      0;  // of tensors, set by the planner from memory; past it the run ends with an error; 0: none
  int threads = 0;
};

struct OutputOptions {
  std::string save_dir = "checkpoint_dir";
  io::ExistingRun existing = io::ExistingRun::refuse;  // --resume, --overwrite
  bool resume_auto = false;  // --resume auto: afresh where there is nothing to resume
  std::string resume_from;   // --resume DIR: a checkpoint folder
  int64_t save_steps = 0;    // 0: at the end only
  int save_total_limit = 2;
  OnSaveError on_save_error = OnSaveError::stop;
  std::string tensorboard_dir;
  int64_t eval_steps = 0;      // 0: at the end of each epoch
  bool keep_best = false;      // the result is what evaluated best
  int64_t early_stopping = 0;  // evaluations without improvement that end the run; 0: none do
  int64_t eval_samples = 3;    // answers shown at eval
  int64_t eval_max_new_tokens = 64;
  bool self_check = false;
  std::string profile;  // Chrome trace of one step is written here
};

// What every run of a trainer has, whatever it trains for (train/run.h).
struct RunOptions : OptimOptions, MachineOptions, OutputOptions {};

struct SftOptions : ModelOptions, DataOptions, TuneOptions, RunOptions {};

}  // namespace hone::train
