// AdamW over the trainable parameters of a store, learning-rate schedules, and global-norm
// clipping.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "exec/context.h"

namespace hone::optim {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_norm = true;  // false: no decay on normalisation weights
  bool decay_bias = true;  // false: no decay on biases
};

// One state tensor of a parameter, for checkpoints: "exp_avg", "exp_avg_sq", "master" (fp32 value
// of a bf16 parameter).
struct OptimizerState {
  ParamId param;
  std::string_view kind;
  Tensor tensor;
};

class AdamW {
 public:
  // Allocates the state of every trainable parameter: zeros, and masters filled from the
  // parameters' values.
  AdamW(Context& ctx, const AdamWOptions& options);

  // One update from the store's gradients, each multiplied by grad_scale. step counts from 1.
  void step(Context& ctx, double learning_rate, double grad_scale, int64_t step);
  std::vector<OptimizerState> states() const;
  // After states or values were restored: parameters with a master get round(master).
  void restored(Context& ctx);

 private:
  struct Entry {
    ParamId param;
    double weight_decay;
    Tensor exp_avg, exp_avg_sq, master;
  };
  AdamWOptions options_;
  std::vector<Entry> entries_;
};

// Euclidean norm of all trainable gradients; not finite if one is not.
double gradient_norm(Context& ctx);
// min(1, max_norm / (norm + 1e-6)); max_norm <= 0: 1.
double clip_scale(double norm, double max_norm);

enum class Schedule { cosine, linear, constant };
Schedule parse_schedule(std::string_view name);  // UserError
// The rate of step s from 0 of `total`: base (s+1)/warmup while s < warmup; then cosine base (0.1 +
// 0.45 (1 + cos(pi (s-W)/(S-W)))), or linear from base to 0, or constant.
double learning_rate(Schedule schedule, double base, int64_t s, int64_t total, int64_t warmup);

}  // namespace hone::optim
