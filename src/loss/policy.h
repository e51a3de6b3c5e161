// Losses of policies trained by reward: GRPO and its family, RLOO, PPO. Formulas, names and
// defaults are TRL's (1.16; PPO 1.12, the last that had it), whose figures the tests hold.
#pragma once

#include "loss/batch.h"

namespace hone::loss {

enum class ScaleRewards { group, batch, none };

// From rewards to advantages. A reward that is absent counts nothing; a sample without any has
// advantage 0 and is in no mean.
struct AdvantageOptions {
  // group: (R - mean) / (std + 1e-4) of its group; rloo: R less the mean of the others of its
  // group.
  std::string estimator = "group";
  ScaleRewards scale = ScaleRewards::group;
  std::vector<double> weights;  // one a reward function; empty: 1
  // Each function's rewards are first scaled in their group, the weighted sum then over the batch.
  bool normalize_then_sum = false;
  bool normalize_advantages = false;                    // rloo: over the batch
  std::optional<std::pair<double, double>> clip_range;  // rloo: of rewards
};
// Needs group and rewards. penalty: one a sample, taken from its reward (RLOO's KL); or empty.
std::vector<double> advantages_of(const Batch& batch, const AdvantageOptions& options,
                                  const std::vector<double>& penalty, Metrics& metrics);

struct GrpoOptions {
  // grpo, bnpo, dr_grpo, dapo, luspo, cispo, sapo, vespo, gmpo
  std::string loss = "dapo";
  double beta = 0;  // of the KL to the reference (k3)
  bool use_bias_correction_kl = true;
  double epsilon = 0.2;
  std::optional<double> epsilon_high;  // absent: epsilon
  std::optional<double> delta;         // upper bound of the unclipped ratio
  bool sequence_level = false;         // importance_sampling_level sequence (GSPO)
  double top_entropy_quantile = 1;
  int64_t max_completion_length = 512;  // of dr_grpo
  double entropy_coef = 0;
  double sapo_temperature_pos = 1, sapo_temperature_neg = 1.05;
  double vespo_k_pos = 2, vespo_lambda_pos = 3, vespo_k_neg = 3, vespo_lambda_neg = 2;
  std::optional<double> off_policy_mask_threshold;
  bool mask_truncated_completions = false;
  // dapo, cispo, vespo: tokens they are divided by; 0: those of the batch.
  int64_t num_items_in_batch = 0;
  int64_t gradient_accumulation_steps = 1, steps_per_generation = 0;  // 0: as many
  AdvantageOptions advantage;
};
// The advantage is an adjoint-free input: given, or made of rewards. Samples without old log-probs
// are on-policy: their own.
Loss grpo_loss(const GrpoOptions& options);

// RLOO (Ahmadian et al., 2024): the ratio of whole completions, clipped.
struct RlooOptions {
  double beta = 0.05;  // of the KL that rewards are lowered by, where there are reference log-probs
  double epsilon = 0.2;
  std::optional<double> epsilon_high;
  AdvantageOptions advantage;
};
Loss rloo_loss(const RlooOptions& options);

// PPO (Schulman et al., 2017) with a critic: rewards are -kl_coef KL a token and the score behind
// the last one.
struct PpoOptions {
  double kl_coef = 0.05;
  std::string kl_estimator = "k1";  // k1, k3
  double cliprange = 0.2, cliprange_value = 0.2;
  double vf_coef = 0.1;
  double gamma = 1, lam = 0.95;
  bool whiten_rewards = false;
};
Loss ppo_loss(const PpoOptions& options);

}  // namespace hone::loss
