// hone loss OBJECTIVE: a loss and its adjoint on log-probs given by hand.
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands/commands.h"
#include "app/loss_input.h"
#include "app/terminal.h"
#include "app/units.h"
#include "core/error.h"
#include "loss/policy.h"
#include "loss/preference.h"

namespace hone::app {
namespace {

struct Files {
  std::string input, output = "-";
};

Json read_input(const std::string& path) {
  if (path.empty()) user_error("flags", "no input was given; use --input FILE, or - for stdin");
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::ifstream file(path, std::ios::binary);
    if (!file) user_error("loss", "{} can't be read; check the path given to --input", path);
    text.assign(std::istreambuf_iterator<char>(file), {});
  }
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) user_error("loss", "{} is not valid JSON", path);
  return json;
}

// Values token by token as lists, one a sample.
Json by_sample(const std::vector<double>& values, const loss::Segments& s) {
  Json lists = Json::array();
  for (size_t i = 0; i < s.count(); ++i)
    lists.push_back(std::vector<double>(values.begin() + static_cast<std::ptrdiff_t>(s.begin(i)),
                                        values.begin() + static_cast<std::ptrdiff_t>(s.end(i))));
  return lists;
}

int run(const loss::Loss& loss, const Files& files) {
  const loss::Batch batch = read_loss_batch(read_input(files.input), files.input);
  Output out(files.output);
  const loss::Evaluation e = loss::evaluate(loss, batch);
  Json result = {{"loss", e.loss}};
  if (batch.logprob.present()) result["dlogprob"] = by_sample(e.dlogprob, batch.logprob.segments);
  if (batch.prompt_logprob.present())
    result["dprompt_logprob"] = by_sample(e.dprompt_logprob, batch.prompt_logprob.segments);
  if (batch.value.present()) result["dvalue"] = by_sample(e.dvalue, batch.value.segments);
  if (!batch.score.empty()) result["dscore"] = e.dscore;
  if (e.notes.advantages.size() == batch.samples) {
    result["advantages"] = e.notes.advantages;
  } else if (!e.notes.advantages.empty()) {
    result["advantages"] = by_sample(e.notes.advantages, batch.tokens());
  }
  result["metrics"] = Json::object();
  for (const auto& [name, value] : e.notes.metrics) result["metrics"][name] = value;
  const loss::AdjointCheck check = loss::check_adjoint(loss, batch, e);
  say(fmt::format("adjoint against central differences: largest gap {:.1e}{}", check.largest_gap,
                  check.where.empty() ? "" : " (" + check.where + ")"));
  out.write(result.dump(1) + "\n");
  out.finish();
  if (!check.passed)
    runtime_error("loss", "the adjoint is not the loss's derivative; please report this");
  return 0;
}

void add_files(Command& c, Files& f) {
  c.group("Input and output");
  c.flag("-i,--input", f.input, "{\"samples\": [{...}]}; -: stdin", "FILE");
  c.flag("-o,--output", f.output, "loss, dlogprob, dvalue, dscore, advantages, metrics; -: stdout",
         "FILE");
  c.group("Loss");
}

std::optional<double> optional_number(const char* flag, const std::string& text) {
  if (text.empty() || text == "none" || text == "None") return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (*end != '\0' || !std::isfinite(value))
    user_error("flags", "{} {}: this is not a number", flag, text);
  return value;
}

std::vector<double> numbers(const char* flag, const std::vector<std::string>& words) {
  std::vector<double> out;
  for (const std::string& word : comma_list(words)) out.push_back(*optional_number(flag, word));
  return out;
}

// The command, and its flags' values.
template <class Flags>
std::pair<Command&, std::shared_ptr<Flags>> add(Cli& cli, const char* objective,
                                                const char* summary) {
  Command& c = cli.add(std::string("loss ") + objective, summary,
                       "Log-probs come from a file; the result is the loss, its derivative by each "
                       "of them, and metrics.\nNames and meanings are TRL's.");
  const auto f = std::make_shared<Flags>();
  add_files(c, f->files);
  return {c, f};
}

void add_dpo_loss(Cli& cli) {
  struct Flags {
    Files files;
    loss::DpoOptions o;
    std::vector<std::string> weights;
    std::string ld_alpha, use_weighting = "false";
  };
  auto [c, f] = add<Flags>(cli, "dpo", "DPO and its family on pairs of log-probs");
  c.flag("--loss,--loss_type", f->o.losses,
         "sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, aot, aot_unpaired, "
         "apo_zero, apo_down, discopop, sft, sigmoid_norm; several are added up",
         "NAME...");
  c.flag("--loss_weights", f->weights, "One a loss", "X...");
  c.flag("--beta", f->o.beta, "How strongly the reference holds");
  c.flag("--label_smoothing", f->o.label_smoothing, "Of exo_pair, robust, aot, aot_unpaired");
  c.flag("--f_divergence_type", f->o.f_divergence,
         "reverse_kl, forward_kl, js_divergence or alpha_divergence", "NAME");
  c.flag("--f_alpha_divergence_coef", f->o.f_alpha_divergence_coef, "Of alpha_divergence");
  c.flag("--ld_alpha", f->ld_alpha, "LD-DPO: weight of what one answer is longer by", "X");
  c.flag("--discopop_tau", f->o.discopop_tau, "Temperature of discopop");
  c.choice("--use_weighting", f->use_weighting, {"true", "false"}, "WPO; needs \"log_sum_sq\"");
  c.run([f = f] {
    f->o.losses = comma_list(f->o.losses);
    f->o.weights = numbers("--loss_weights", f->weights);
    f->o.ld_alpha = optional_number("--ld_alpha", f->ld_alpha);
    f->o.use_weighting = f->use_weighting == "true";
    return run(loss::dpo_loss(f->o), f->files);
  });
}

void add_cpo_loss(Cli& cli) {
  struct Flags {
    Files files;
    loss::CpoOptions o;
  };
  auto [c, f] = add<Flags>(cli, "cpo", "CPO, SimPO and AlphaPO: pairs without a reference");
  c.flag("--loss,--loss_type", f->o.loss, "sigmoid, hinge, ipo, simpo or alphapo", "NAME");
  c.flag("--beta", f->o.beta, "Scale of the reward");
  c.flag("--label_smoothing", f->o.label_smoothing, "Of sigmoid and simpo");
  c.flag("--cpo_alpha", f->o.cpo_alpha, "Weight of the chosen answers' NLL");
  c.flag("--simpo_gamma", f->o.simpo_gamma, "Margin of simpo");
  c.flag("--alpha", f->o.alpha, "AlphaPO's transform of the reward; 0: none");
  c.run([f = f] { return run(loss::cpo_loss(f->o), f->files); });
}

void add_orpo_loss(Cli& cli) {
  struct Flags {
    Files files;
    loss::OrpoOptions o;
  };
  auto [c, f] = add<Flags>(cli, "orpo", "ORPO: odds ratio beside the chosen samples' NLL");
  c.flag("--beta", f->o.beta, "Weight of the odds ratio");
  c.run([f = f] { return run(loss::orpo_loss(f->o), f->files); });
}

void add_kto_loss(Cli& cli) {
  struct Flags {
    Files files;
    loss::KtoOptions o;
  };
  auto [c, f] = add<Flags>(cli, "kto", "KTO: answers labelled one by one");
  c.flag("--loss,--loss_type", f->o.loss, "kto or apo_zero_unpaired", "NAME");
  c.flag("--beta", f->o.beta, "How strongly the reference holds");
  c.flag("--desirable_weight", f->o.desirable_weight, "Of samples labelled true");
  c.flag("--undesirable_weight", f->o.undesirable_weight, "Of samples labelled false");
  c.run([f = f] { return run(loss::kto_loss(f->o), f->files); });
}

void add_reward_loss(Cli& cli) {
  struct Flags {
    Files files;
    std::string center;
  };
  auto [c, f] = add<Flags>(cli, "reward", "Bradley-Terry over scores of pairs");
  c.flag("--center_rewards_coefficient", f->center, "Weight of the squared sums of scores", "X");
  c.run([f = f] {
    loss::RewardOptions o;
    o.center_rewards_coefficient = optional_number("--center_rewards_coefficient", f->center);
    return run(loss::reward_loss(o), f->files);
  });
}

// What GRPO and RLOO make advantages of.
struct AdvantageFlags {
  std::string scale = "group", aggregation = "sum_then_normalize";
  std::vector<std::string> weights;

  loss::AdvantageOptions options() const {
    loss::AdvantageOptions o;
    o.scale = scale == "batch"                      ? loss::ScaleRewards::batch
              : scale == "none" || scale == "false" ? loss::ScaleRewards::none
                                                    : loss::ScaleRewards::group;
    o.weights = numbers("--reward_weights", weights);
    o.normalize_then_sum = aggregation == "normalize_then_sum";
    return o;
  }
};

void add_grpo_loss(Cli& cli) {
  struct Flags {
    Files files;
    AdvantageFlags advantage;
    loss::GrpoOptions o;
    std::string epsilon_high, delta, level = "token", bias = "true", off_policy,
                                     mask_truncated = "false";
  };
  auto [c, f] = add<Flags>(cli, "grpo", "GRPO and its family on sampled log-probs");
  c.flag("--loss,--loss_type", f->o.loss,
         "grpo, bnpo, dr_grpo, dapo, luspo, cispo, sapo, vespo or gmpo", "NAME");
  c.flag("--beta", f->o.beta, "Weight of the KL to the reference");
  c.choice("--use_bias_correction_kl", f->bias, {"true", "false"}, "KL times the ratio");
  c.flag("--epsilon", f->o.epsilon, "The ratio is clipped below 1 - epsilon ...");
  c.flag("--epsilon_high", f->epsilon_high,
         "... and above 1 + this (cispo: above this itself); epsilon where not given", "X");
  c.flag("--delta", f->delta, "Upper bound of the ratio that isn't clipped", "X");
  c.choice("--importance_sampling_level", f->level, {"token", "sequence"}, "Whose ratio");
  c.flag("--top_entropy_quantile", f->o.top_entropy_quantile, "Share of tokens that count");
  c.flag("--max_completion_length", f->o.max_completion_length, "What dr_grpo divides by");
  c.choice("--scale_rewards", f->advantage.scale, {"group", "batch", "none", "true", "false"},
           "What rewards are divided by");
  c.flag("--reward_weights", f->advantage.weights, "One a reward function", "X...");
  c.choice("--multi_objective_aggregation", f->advantage.aggregation,
           {"sum_then_normalize", "normalize_then_sum"}, "Of several reward functions");
  c.flag("--entropy_coef", f->o.entropy_coef, "Weight of the entropy that is rewarded");
  c.flag("--sapo_temperature_pos", f->o.sapo_temperature_pos, "Of sapo");
  c.flag("--sapo_temperature_neg", f->o.sapo_temperature_neg, "Of sapo");
  c.flag("--vespo_k_pos", f->o.vespo_k_pos, "Of vespo");
  c.flag("--vespo_lambda_pos", f->o.vespo_lambda_pos, "Of vespo");
  c.flag("--vespo_k_neg", f->o.vespo_k_neg, "Of vespo");
  c.flag("--vespo_lambda_neg", f->o.vespo_lambda_neg, "Of vespo");
  c.flag("--off_policy_mask_threshold", f->off_policy, "Drift past which bad samples don't count",
         "X");
  c.choice("--mask_truncated_completions", f->mask_truncated, {"true", "false"},
           "Samples that were cut off don't count");
  c.flag("--num_items_in_batch", f->o.num_items_in_batch,
         "Tokens that dapo, cispo and vespo divide by; 0: those of the file");
  c.flag("--gradient_accumulation_steps", f->o.gradient_accumulation_steps, "As in training");
  c.flag("--steps_per_generation", f->o.steps_per_generation, "As in training; 0: as many");
  c.run([f = f] {
    f->o.epsilon_high = optional_number("--epsilon_high", f->epsilon_high);
    f->o.delta = optional_number("--delta", f->delta);
    f->o.sequence_level = f->level == "sequence";
    f->o.use_bias_correction_kl = f->bias == "true";
    f->o.off_policy_mask_threshold = optional_number("--off_policy_mask_threshold", f->off_policy);
    f->o.mask_truncated_completions = f->mask_truncated == "true";
    f->o.advantage = f->advantage.options();
    return run(loss::grpo_loss(f->o), f->files);
  });
}

void add_rloo_loss(Cli& cli) {
  struct Flags {
    Files files;
    AdvantageFlags advantage;
    loss::RlooOptions o;
    std::string epsilon_high, normalize = "false";
    std::vector<std::string> clip;
  };
  auto [c, f] = add<Flags>(cli, "rloo", "RLOO: the ratio of whole completions");
  c.flag("--beta", f->o.beta, "KL that rewards are lowered by");
  c.flag("--epsilon", f->o.epsilon, "The ratio is clipped below 1 - epsilon ...");
  c.flag("--epsilon_high", f->epsilon_high, "... and above 1 + this; epsilon where not given", "X");
  c.flag("--reward_weights", f->advantage.weights, "One a reward function", "X...");
  c.choice("--normalize_advantages", f->normalize, {"true", "false"}, "Over the batch");
  c.flag("--reward_clip_range", f->clip, "Lowest and highest reward", "X...");
  c.run([f = f] {
    f->o.epsilon_high = optional_number("--epsilon_high", f->epsilon_high);
    f->o.advantage = f->advantage.options();
    f->o.advantage.normalize_advantages = f->normalize == "true";
    const std::vector<double> clip = numbers("--reward_clip_range", f->clip);
    if (!clip.empty() && (clip.size() != 2 || clip[0] > clip[1]))
      user_error("flags", "--reward_clip_range takes a lowest and a highest reward");
    if (!clip.empty()) f->o.advantage.clip_range = {clip[0], clip[1]};
    return run(loss::rloo_loss(f->o), f->files);
  });
}

void add_ppo_loss(Cli& cli) {
  struct Flags {
    Files files;
    loss::PpoOptions o;
    std::string whiten = "false";
  };
  auto [c, f] = add<Flags>(cli, "ppo", "PPO: policy and value loss with GAE");
  c.flag("--kl_coef", f->o.kl_coef, "KL that rewards are lowered by, token by token");
  c.choice("--kl_estimator", f->o.kl_estimator, {"k1", "k3"}, "How it is estimated");
  c.flag("--cliprange", f->o.cliprange, "Of the ratio");
  c.flag("--cliprange_value", f->o.cliprange_value, "Of the value");
  c.flag("--vf_coef", f->o.vf_coef, "Weight of the value loss");
  c.flag("--gamma", f->o.gamma, "Discount");
  c.flag("--lam", f->o.lam, "Of GAE");
  c.choice("--whiten_rewards", f->whiten, {"true", "false"}, "To variance 1");
  c.run([f = f] {
    f->o.whiten_rewards = f->whiten == "true";
    return run(loss::ppo_loss(f->o), f->files);
  });
}

}  // namespace

void add_loss(Cli& cli) {
  add_dpo_loss(cli);
  add_cpo_loss(cli);
  add_orpo_loss(cli);
  add_kto_loss(cli);
  add_reward_loss(cli);
  add_grpo_loss(cli);
  add_rloo_loss(cli);
  add_ppo_loss(cli);
}

}  // namespace hone::app
