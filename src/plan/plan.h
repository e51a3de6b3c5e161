// The planner: a trainer's own recipe on a meta machine, so that peak memory and work are known
// before a weight is read.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tensor/arena.h"
#include "train/recipe.h"

namespace hone::plan {

// What `hone bench` measured of this machine.
struct MachineRates {
  double gemm_bf16 = 0;  // FLOP/s
  double gemm_fp32 = 0;
  double bandwidth = 0;  // bytes/s
};
// From a file that `hone bench` wrote; null if there is none or it is of another machine.
std::optional<MachineRates> load_machine_rates();
void save_machine_rates(const MachineRates& rates);

struct Phase {
  std::string name;  // "load", "forward and backward", "optimizer", "evaluation"
  size_t peak = 0;   // bytes of the arena in use
};

struct Plan {
  int64_t parameters = 0, trainable = 0;
  int64_t micro_batch_tokens = 0;
  bool recompute = false;
  // Peak resident bytes, by kind: arena kinds, then what lies outside of the arena.
  std::array<size_t, kMemoryKinds> arena{};  // at the arena's peak
  size_t fragmentation = 0;                  // high-water mark over the peak
  size_t mapped_weights = 0;                 // used from the file; counted whole
  size_t streamed_weights = 0;               // room for what is read from disk as it is needed
  size_t disk_bytes = 0;                     // read so, by the best order: a micro-batch
  size_t process = 0;                        // program, libraries, tokenizer, data pipeline
  size_t starting = 0;                       // peak of the whole process before the first step
  size_t outside() const { return mapped_weights + streamed_weights + process; }  // of the arena
  size_t peak() const;
  std::vector<Phase> phases;
  // A micro-batch filled to the budget, and the optimizer's update.
  double gemm_flops = 0, other_flops = 0, bytes = 0;  // per micro-batch
  double update_bytes = 0;                            // per step
  double tokens_per_micro_batch = 0;
  double seconds_per_token = 0;                   // 0: unknown (no measured rates)
  size_t checkpoint_bytes = 0, result_bytes = 0;  // on disk
};

// Plans a run of a trainer with these options: needs config.json of the model (weight headers are
// used if they are there). UserError as the trainer's for options and config. options are those
// that the recipe is made from.
Plan plan_run(const train::TrainerOptions& options, const train::MakeRecipe& make);

// Where options.memory asks for it: sets micro_batch_tokens, grad_checkpoint, arena_limit and,
// where frozen weights have no room, weights_memory so that the planned peak stays within it,
// whatever sample comes (up to max_length). Explicit choices of the user are kept. UserError says
// what the least would be and what to change.
void fit_memory(train::TrainerOptions& options, const train::MakeRecipe& make);

std::string to_text(const Plan& plan, const train::TrainerOptions& options);
nlohmann::json to_json(const Plan& plan);

}  // namespace hone::plan
