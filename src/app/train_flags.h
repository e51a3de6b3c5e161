// The flags that all trainers have beside those of their options.
#pragma once

#include <string>
#include <vector>

#include "app/cli.h"
#include "train/options.h"

namespace hone::app {

// What needs a look before it is an option.
struct TrainFlags {
  std::string mixed_precision = "bf16", lora_config, resume, tokenizer_dir, config_file;
  bool overwrite = false;
  // Of the original, without effect on one process.
  std::string plugin = "zero2", sp_mode = "split_gather";
  int64_t tp = 1, pp = 1, sp = 1, ep = 1, zero_stage = 1;
  std::string microbatch_size;
  bool flash = false, sequence_parallelism = false, cpu_offload = false, wandb = false;
};

// Tuning, optimisation, machine, output; the group that is open then is that of the original's
// flags. Both outlive the command.
void add_run_flags(Command& c, train::TrainerOptions& o, TrainFlags& f);
// --config and --config_file, the last group.
void add_common_flags(Command& c, TrainFlags& f);

// After parsing: completes the options. UserError for values that make no sense, contradict each
// other, or ask for what hone hasn't got. Returns notes for people, one sentence each. need_data:
// false lets a plan do without --dataset.
std::vector<std::string> settle_options(const Command& c, const TrainFlags& f,
                                        train::TrainerOptions& o, bool need_data);

}  // namespace hone::app
