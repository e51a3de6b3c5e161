// Losses over pairs of a better and a worse answer, over labelled answers, and of reward models.
// Formulas, names and defaults are TRL 1.16's, whose figures the tests hold.
#pragma once

#include "loss/batch.h"

namespace hone::loss {

// DPO (Rafailov et al., 2023) and its family. Terms are summed with their weights; each is a mean
// over pairs.
struct DpoOptions {
  // sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, aot, aot_unpaired,
  // apo_zero, apo_down, discopop, sft, sigmoid_norm
  std::vector<std::string> losses = {"sigmoid"};
  std::vector<double> weights;  // one a loss; empty: 1
  double beta = 0.1;
  double label_smoothing = 0;  // of exo_pair, robust, aot, aot_unpaired
  // reverse_kl, forward_kl, js_divergence, alpha_divergence
  std::string f_divergence = "reverse_kl";
  double f_alpha_divergence_coef = 0.5;
  std::optional<double> ld_alpha;  // LD-DPO: weight of what one answer is longer by
  double discopop_tau = 0.05;
  bool use_weighting = false;  // WPO; needs log_sum_sq
};
// UserError for values that make no sense together.
Loss dpo_loss(const DpoOptions& options);

// CPO (Xu et al., 2024), SimPO (Meng et al., 2024), AlphaPO: no reference.
struct CpoOptions {
  std::string loss = "sigmoid";  // sigmoid, hinge, ipo, simpo, alphapo (simpo without NLL)
  double beta = 0.1;
  double label_smoothing = 0;
  double cpo_alpha = 1;  // weight of the chosen answers' NLL
  double simpo_gamma = 0.5;
  double alpha = 0;  // AlphaPO's transform of the reward; 0: none
};
Loss cpo_loss(const CpoOptions& options);

// ORPO (Hong et al., 2024): needs prompt_logprob, since its NLL covers the prompt, too.
struct OrpoOptions {
  double beta = 0.1;
};
Loss orpo_loss(const OrpoOptions& options);

// KTO (Ethayarajh et al., 2024); kto needs kl_logprob and kl_ref_logprob.
struct KtoOptions {
  std::string loss = "kto";  // kto, apo_zero_unpaired
  double beta = 0.1;
  double desirable_weight = 1, undesirable_weight = 1;
};
Loss kto_loss(const KtoOptions& options);

// Bradley-Terry over scores of pairs.
struct RewardOptions {
  std::optional<double> center_rewards_coefficient;
};
Loss reward_loss(const RewardOptions& options);

}  // namespace hone::loss
