#include "loss/preference.h"

#include <cmath>

#include "core/error.h"

namespace hone::loss {
namespace {

using namespace autodiff;

double average(const std::vector<double>& v) {
  double s = 0;
  for (const double x : v) s += x;
  return s / static_cast<double>(v.size());
}

// Means over the pairs of the step, of which the batch may be a part.
double pair_count(const Batch& batch, std::size_t here) {
  return static_cast<double>(batch.step_pairs > 0 ? batch.step_pairs : here);
}
Vec pair_mean(const Batch& batch, const Vec& x) { return sum(x) / pair_count(batch, x.size()); }
double pair_average(const Batch& batch, const std::vector<double>& v) {
  double s = 0;
  for (const double x : v) s += x;
  return s / pair_count(batch, v.size());
}

void positive(const char* name, double value) {
  if (!(value > 0) || !std::isfinite(value))
    user_error("loss", "--{} {} is not usable; use a positive number", name, value);
}

void smoothing_below(double value, double most, const char* loss) {
  if (!(value >= 0 && value < most))
    user_error("loss", "--label_smoothing {} is not in [0, {}), which {} needs", value, most, loss);
}

void add_pair_metrics(Notes& notes, const Batch& batch, const std::vector<double>& chosen,
                      const std::vector<double>& rejected) {
  double better = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i) better += chosen[i] > rejected[i] ? 1 : 0;
  const double c = pair_average(batch, chosen), r = pair_average(batch, rejected);
  notes.metrics.emplace_back("rewards/chosen", c);
  notes.metrics.emplace_back("rewards/rejected", r);
  notes.metrics.emplace_back("rewards/accuracies", better / pair_count(batch, chosen.size()));
  notes.metrics.emplace_back("rewards/margins", c - r);
}

// The two sides of a per-sample vector.
struct Sides {
  Vec chosen, rejected;
};
Sides split(const Vec& x, const Pairs& pairs) {
  return {gather(x, pairs.chosen), gather(x, pairs.rejected)};
}

// Lengths of completions, at least 1, of the samples given.
Vec lengths(Tape& tape, const Batch& batch, const std::vector<std::size_t>& samples) {
  std::vector<double> n;
  for (const std::size_t i : samples)
    n.push_back(static_cast<double>(std::max<std::size_t>(1, batch.tokens().length(i))));
  return tape.constant(std::move(n));
}

// -sum of the tokens' log-probs over those of the chosen answers, by their count.
Vec chosen_nll(Tape& tape, const Batch& batch, const Vec& logprob, const Pairs& pairs) {
  std::vector<std::size_t> rows;
  for (const std::size_t i : pairs.chosen)
    for (std::size_t t = batch.tokens().begin(i); t < batch.tokens().end(i); ++t) rows.push_back(t);
  if (rows.empty()) return tape.constant(0);
  const std::size_t n = batch.step_chosen_tokens > 0 ? batch.step_chosen_tokens : rows.size();
  return -sum(gather(logprob, rows)) / static_cast<double>(n);
}

Vec smoothed(const Vec& logits, double smoothing) {
  return -(log_sigmoid(logits) * (1 - smoothing)) - log_sigmoid(-logits) * smoothing;
}

// ---- DPO

// What the terms of DPO are made of, a value a pair.
struct DpoTerms {
  Sides logp, ref, ratio, score;  // ratio: logp - ref; score: its f-divergence
  Vec chosen_length, rejected_length;
  Vec delta;  // of scores
  Vec nll;    // of the chosen answers
};

Vec divergence(const Vec& ratio, const DpoOptions& o) {
  if (o.f_divergence == "forward_kl") return 1.0 - exp(-ratio);
  if (o.f_divergence == "js_divergence") return std::log(2.0) + log_sigmoid(ratio);
  if (o.f_divergence == "alpha_divergence") {
    const double a = o.f_alpha_divergence_coef - 1;
    if (std::fabs(a) < 1e-6) return ratio;
    return (exp(clamp(ratio * a, -HUGE_VAL, 80.0)) - 1.0) * (1 / a);
  }
  return ratio;
}

Vec dpo_term(const std::string& name, const DpoTerms& t, const DpoOptions& o) {
  const double beta = o.beta, eps = o.label_smoothing;
  const Vec& c = t.ratio.chosen;
  const Vec& r = t.ratio.rejected;
  const Vec logits = t.delta * beta;
  if (name == "sigmoid") return -log_sigmoid(logits);
  if (name == "hinge") return relu(1.0 - logits);
  if (name == "ipo" || name == "sigmoid_norm") {
    const Vec d = t.score.chosen / t.chosen_length - t.score.rejected / t.rejected_length;
    return name == "ipo" ? square(d - 1 / (2 * beta)) : -log_sigmoid(d * beta);
  }
  if (name == "exo_pair") {
    return sigmoid(logits) * (log_sigmoid(logits) - std::log1p(-eps)) +
           sigmoid(-logits) * (log_sigmoid(-logits) - std::log(eps));
  }
  if (name == "nca_pair") {
    return -log_sigmoid(c * beta) - log_sigmoid(-(c * beta)) * 0.5 - log_sigmoid(-(r * beta)) * 0.5;
  }
  if (name == "robust") {
    return (log_sigmoid(-logits) * eps - log_sigmoid(logits) * (1 - eps)) / (1 - 2 * eps);
  }
  if (name == "bco_pair") return -log_sigmoid(c * beta) - log_sigmoid(-(r * beta));
  if (name == "sppo_hard") return square(c - 0.5 / beta) + square(r + 0.5 / beta);
  if (name == "aot") {
    const Vec d = sort(t.logp.chosen - t.logp.rejected) - sort(t.ref.chosen - t.ref.rejected);
    return smoothed(d * beta, eps);
  }
  if (name == "aot_unpaired") return smoothed((sort(c) - sort(r)) * beta, eps);
  if (name == "apo_zero") return 1.0 - sigmoid(c * beta) + sigmoid(r * beta);
  if (name == "apo_down") return sigmoid(c * beta) + 1.0 - sigmoid((c - r) * beta);
  if (name == "discopop") {
    const Vec m = sigmoid(logits / o.discopop_tau);
    return exp(-logits) * m - log_sigmoid(logits) * (1.0 - m);
  }
  HONE_CHECK(name == "sft", "checked by dpo_loss");
  return t.nll;
}

void check_dpo(const DpoOptions& o) {
  static const std::vector<std::string> kAll = {
      "sigmoid",  "hinge",    "ipo",       "exo_pair", "nca_pair",
      "robust",   "bco_pair", "sppo_hard", "aot",      "aot_unpaired",
      "apo_zero", "apo_down", "discopop",  "sft",      "sigmoid_norm"};
  // The others are made of the plain log-ratio.
  static const std::vector<std::string> kOfScores = {"sigmoid",  "sigmoid_norm", "hinge",    "ipo",
                                                     "exo_pair", "robust",       "discopop", "sft"};
  const auto in = [](const std::vector<std::string>& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  if (o.losses.empty()) user_error("loss", "--loss names nothing; use sigmoid");
  positive("beta", o.beta);
  for (const std::string& name : o.losses) {
    if (!in(kAll, name))
      user_error("loss", "--loss {} is not known to dpo; use one or several of {}", name,
                 fmt::format("{}", fmt::join(kAll, ", ")));
    if (o.f_divergence != "reverse_kl" && !in(kOfScores, name))
      user_error("loss", "--f_divergence_type {} has no meaning for --loss {}; use reverse_kl",
                 o.f_divergence, name);
    if (name == "robust") smoothing_below(o.label_smoothing, 0.5, "--loss robust");
    if (name == "aot" || name == "aot_unpaired")
      smoothing_below(o.label_smoothing, 1, "--loss aot");
    if (name == "exo_pair" && !(o.label_smoothing > 0 && o.label_smoothing < 1))
      user_error("loss",
                 "--label_smoothing {}: --loss exo_pair takes its logarithm; use a small positive "
                 "number such as 1e-3",
                 o.label_smoothing);
    if (o.use_weighting && name == "aot")
      user_error("loss", "--use_weighting has no meaning for --loss aot, which sorts its pairs");
  }
  if (!o.weights.empty() && o.weights.size() != o.losses.size())
    user_error("loss", "--loss_weights has {} numbers for {} losses", o.weights.size(),
               o.losses.size());
  static const std::vector<std::string> kDivergences = {"reverse_kl", "forward_kl", "js_divergence",
                                                        "alpha_divergence"};
  if (!in(kDivergences, o.f_divergence))
    user_error("loss", "--f_divergence_type {} is not known; use {}", o.f_divergence,
               fmt::format("{}", fmt::join(kDivergences, ", ")));
  if (o.ld_alpha && !(*o.ld_alpha >= 0 && *o.ld_alpha <= 1))
    user_error("loss", "--ld_alpha {} is not in [0, 1]", *o.ld_alpha);
  positive("discopop_tau", o.discopop_tau);
}

// LD-DPO (Liu et al., 2024): tokens behind the shorter answer's length count ld_alpha.
Vec weighted_by_length(Tape& tape, const Batch& batch, const Pairs& pairs, const Vec& logprob,
                       double ld_alpha) {
  std::vector<double> w(batch.tokens().total(), 1.0);
  for (std::size_t p = 0; p < pairs.chosen.size(); ++p) {
    const std::size_t shared =
        std::min(batch.tokens().length(pairs.chosen[p]), batch.tokens().length(pairs.rejected[p]));
    for (const std::size_t i : {pairs.chosen[p], pairs.rejected[p]})
      for (std::size_t t = batch.tokens().begin(i) + shared; t < batch.tokens().end(i); ++t)
        w[t] = ld_alpha;
  }
  return logprob * tape.constant(std::move(w));
}

// WPO (Zhou et al., 2024): exp of the mean of log p - log sum p^2 of both answers; no adjoint.
Vec wpo_weight(Tape& tape, const Batch& batch, const Pairs& pairs, const Vec& logprob) {
  const Vec aligned = detach(logprob - tape.constant(batch.log_sum_sq.values));
  std::vector<std::size_t> all(batch.samples);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  const Vec weight = exp(sum(aligned, batch.tokens()) / lengths(tape, batch, all));
  const Sides s = split(weight, pairs);
  return s.chosen * s.rejected;
}

}  // namespace

Loss dpo_loss(const DpoOptions& options) {
  check_dpo(options);
  return [o = options](Tape& tape, const Batch& batch, const Variables& v, Notes& notes) {
    need(batch, batch.ref_logprob, "ref_logprob");
    if (o.use_weighting) need(batch, batch.log_sum_sq, "log_sum_sq");
    const Pairs pairs = pairs_of(batch);
    Vec logprob = v.logprob, ref = tape.constant(batch.ref_logprob.values);
    if (o.ld_alpha) {
      logprob = weighted_by_length(tape, batch, pairs, logprob, *o.ld_alpha);
      ref = weighted_by_length(tape, batch, pairs, ref, *o.ld_alpha);
    }
    DpoTerms t;
    t.logp = split(sum(logprob, batch.tokens()), pairs);
    t.ref = split(sum(ref, batch.tokens()), pairs);
    t.ratio = {t.logp.chosen - t.ref.chosen, t.logp.rejected - t.ref.rejected};
    t.score = {divergence(t.ratio.chosen, o), divergence(t.ratio.rejected, o)};
    t.delta = t.score.chosen - t.score.rejected;
    t.chosen_length = lengths(tape, batch, pairs.chosen);
    t.rejected_length = lengths(tape, batch, pairs.rejected);
    t.nll = chosen_nll(tape, batch, v.logprob, pairs);
    Vec total = tape.constant(0);
    for (std::size_t i = 0; i < o.losses.size(); ++i) {
      Vec term = dpo_term(o.losses[i], t, o);
      if (o.use_weighting) term = term * wpo_weight(tape, batch, pairs, v.logprob);
      if (o.losses[i] != "sft" || o.use_weighting) term = pair_mean(batch, term);
      total = total + term * (o.weights.empty() ? 1.0 : o.weights[i]);
    }
    add_pair_metrics(notes, batch, (t.ratio.chosen * o.beta).value(),
                     (t.ratio.rejected * o.beta).value());
    notes.metrics.emplace_back("logps/chosen", pair_average(batch, t.logp.chosen.value()));
    notes.metrics.emplace_back("logps/rejected", pair_average(batch, t.logp.rejected.value()));
    return total;
  };
}

Loss cpo_loss(const CpoOptions& options) {
  CpoOptions o = options;
  if (o.loss == "alphapo") {
    o.loss = "simpo";
    o.cpo_alpha = 0;
  }
  if (o.loss != "sigmoid" && o.loss != "hinge" && o.loss != "ipo" && o.loss != "simpo")
    user_error("loss", "--loss {} is not known to cpo; use sigmoid, hinge, ipo, simpo or alphapo",
               o.loss);
  positive("beta", o.beta);
  smoothing_below(o.label_smoothing, 1, "cpo");
  if (o.label_smoothing > 0 && (o.loss == "hinge" || o.loss == "ipo"))
    user_error("loss", "--label_smoothing has no meaning for --loss {}; leave it out", o.loss);
  return [o](Tape& tape, const Batch& batch, const Variables& v, Notes& notes) {
    const Pairs pairs = pairs_of(batch);
    const bool averages = o.loss == "ipo" || o.loss == "simpo";
    Sides logp = split(sum(v.logprob, batch.tokens()), pairs);
    if (averages) {
      logp.chosen = logp.chosen / lengths(tape, batch, pairs.chosen);
      logp.rejected = logp.rejected / lengths(tape, batch, pairs.rejected);
    }
    const auto reward = [&](const Vec& lp) {
      return o.alpha == 0 ? lp : (1.0 - exp(lp * -o.alpha)) / o.alpha;
    };
    const Sides r = {reward(logp.chosen), reward(logp.rejected)};
    Vec logits = r.chosen - r.rejected;
    Vec term;
    if (o.loss == "hinge") {
      term = relu(1.0 - logits * o.beta);
    } else if (o.loss == "ipo") {
      term = square(logits - 1 / (2 * o.beta));
    } else {
      if (o.loss == "simpo") logits = logits - o.simpo_gamma / o.beta;
      term = smoothed(logits * o.beta, o.label_smoothing);
    }
    const Vec nll = chosen_nll(tape, batch, v.logprob, pairs);
    add_pair_metrics(notes, batch, (r.chosen * o.beta).value(), (r.rejected * o.beta).value());
    notes.metrics.emplace_back("logps/chosen", pair_average(batch, logp.chosen.value()));
    notes.metrics.emplace_back("logps/rejected", pair_average(batch, logp.rejected.value()));
    notes.metrics.emplace_back("nll_loss", nll.scalar());
    return pair_mean(batch, term) + nll * o.cpo_alpha;
  };
}

Loss orpo_loss(const OrpoOptions& o) {
  positive("beta", o.beta);
  return [o](Tape& tape, const Batch& batch, const Variables& v, Notes& notes) {
    if (!batch.prompt_logprob.present())
      user_error("loss", "the samples have no \"prompt_logprob\", which this needs");
    const Pairs pairs = pairs_of(batch);
    Sides a = split(sum(v.logprob, batch.tokens()), pairs);
    a.chosen = a.chosen / lengths(tape, batch, pairs.chosen);
    a.rejected = a.rejected / lengths(tape, batch, pairs.rejected);
    const Vec log_odds = (a.chosen - a.rejected) - (log1mexp(a.chosen) - log1mexp(a.rejected));
    const Vec ratio = log_sigmoid(log_odds);
    // NLL over prompt and answer of the chosen samples.
    const Vec whole = gather(
        sum(v.logprob, batch.tokens()) + sum(v.prompt_logprob, batch.prompt_logprob.segments),
        pairs.chosen);
    double tokens = 0;
    for (const std::size_t i : pairs.chosen)
      tokens +=
          static_cast<double>(batch.tokens().length(i) + batch.prompt_logprob.segments.length(i));
    if (batch.step_chosen_tokens > 0) tokens = static_cast<double>(batch.step_chosen_tokens);
    const Vec nll = -sum(whole) / tokens;
    add_pair_metrics(notes, batch, (a.chosen * o.beta).value(), (a.rejected * o.beta).value());
    notes.metrics.emplace_back("logps/chosen", pair_average(batch, a.chosen.value()));
    notes.metrics.emplace_back("logps/rejected", pair_average(batch, a.rejected.value()));
    notes.metrics.emplace_back("nll_loss", nll.scalar());
    notes.metrics.emplace_back("log_odds_ratio", pair_average(batch, ratio.value()));
    notes.metrics.emplace_back("log_odds_chosen", pair_average(batch, log_odds.value()));
    return nll - pair_mean(batch, ratio) * o.beta;
  };
}

namespace {

// How far the policy is from the reference: one number for all samples, never below 0.
double kto_kl(const Batch& batch) {
  if (batch.kl) return std::max(0.0, *batch.kl);
  const Column &p = batch.kl_logprob, &q = batch.kl_ref_logprob;
  if (!p.present() || !q.present())
    user_error("loss",
               "the samples have no \"kl_logprob\" and \"kl_ref_logprob\", which --loss "
               "kto needs; --loss apo_zero_unpaired does without");
  double kl = 0;
  for (const double x : p.values) kl += x;
  for (const double x : q.values) kl -= x;
  return std::max(0.0, kl / static_cast<double>(batch.samples));
}

// Means over the desirable and over the other samples of the step; of a kind that is missing there,
// none.
void add_label_metrics(Notes& notes, const Batch& batch, const std::vector<double>& rewards,
                       const std::vector<double>& logp) {
  double reward[2] = {}, sum[2] = {}, count[2] = {};
  for (std::size_t i = 0; i < batch.samples; ++i) {
    const int good = batch.label[i] != 0 ? 1 : 0;
    reward[good] += rewards[i];
    sum[good] += logp[i];
    count[good] += 1;
  }
  if (batch.step_samples > 0) {
    count[1] = static_cast<double>(batch.step_desirable);
    count[0] = static_cast<double>(batch.step_samples - batch.step_desirable);
  }
  const auto add = [&](const char* name, int kind, const double* values) {
    if (count[kind] > 0) notes.metrics.emplace_back(name, values[kind] / count[kind]);
  };
  add("rewards/chosen", 1, reward);
  add("rewards/rejected", 0, reward);
  add("logps/chosen", 1, sum);
  add("logps/rejected", 0, sum);
  if (count[0] > 0 && count[1] > 0)
    notes.metrics.emplace_back("rewards/margins", reward[1] / count[1] - reward[0] / count[0]);
}

}  // namespace

Loss kto_loss(const KtoOptions& o) {
  if (o.loss != "kto" && o.loss != "apo_zero_unpaired")
    user_error("loss", "--loss {} is not known to kto; use kto or apo_zero_unpaired", o.loss);
  positive("beta", o.beta);
  return [o](Tape& tape, const Batch& batch, const Variables& v, Notes& notes) {
    need(batch, batch.ref_logprob, "ref_logprob");
    if (batch.label.size() != batch.samples)
      user_error("loss", "every sample needs a \"label\", true or false");
    const Vec logp = sum(v.logprob, batch.tokens());
    const Vec ratio = logp - sum(tape.constant(batch.ref_logprob.values), batch.tokens());
    const double all =
        static_cast<double>(batch.step_samples > 0 ? batch.step_samples : batch.samples);
    double kl = 0;
    if (o.loss == "kto") {
      kl = kto_kl(batch);
      notes.metrics.emplace_back("kl", kl * static_cast<double>(batch.samples) / all);
    }
    // One formula: +1 for a desirable sample, -1 for another.
    std::vector<double> sign, weight, rewards;
    for (std::size_t i = 0; i < batch.samples; ++i) {
      const bool good = batch.label[i] != 0;
      sign.push_back(good ? 1 : -1);
      weight.push_back(good ? o.desirable_weight : o.undesirable_weight);
      rewards.push_back(o.beta * ratio.value()[i]);
    }
    add_label_metrics(notes, batch, rewards, logp.value());
    const Vec s = tape.constant(std::move(sign));
    const Vec term = 1.0 - sigmoid((ratio - kl) * s * o.beta);
    return sum(term * tape.constant(std::move(weight))) / all;
  };
}

Loss reward_loss(const RewardOptions& o) {
  if (o.center_rewards_coefficient && !(*o.center_rewards_coefficient >= 0))
    user_error("loss", "--center_rewards_coefficient {} is negative",
               *o.center_rewards_coefficient);
  return [o](Tape& tape, const Batch& batch, const Variables& v, Notes& notes) {
    if (batch.score.size() != batch.samples) user_error("loss", "every sample needs a \"score\"");
    const Pairs pairs = pairs_of(batch);
    const Sides s = split(v.score, pairs);
    const Vec difference = s.chosen - s.rejected;
    Vec logits = difference;
    if (!batch.margin.empty()) {
      std::vector<double> margin;
      for (const std::size_t i : pairs.chosen) margin.push_back(batch.margin[i]);
      logits = logits - tape.constant(std::move(margin));
    }
    Vec loss = -mean(log_sigmoid(logits));
    if (o.center_rewards_coefficient)
      loss = loss + mean(square(s.chosen + s.rejected)) * *o.center_rewards_coefficient;
    double better = 0;
    for (const double d : difference.value()) better += d > 0 ? 1 : 0;
    notes.metrics.emplace_back("accuracy", better / static_cast<double>(difference.size()));
    notes.metrics.emplace_back("margin", average(difference.value()));
    notes.metrics.emplace_back("min_reward",
                               *std::min_element(batch.score.begin(), batch.score.end()));
    notes.metrics.emplace_back("mean_reward", average(batch.score));
    notes.metrics.emplace_back("max_reward",
                               *std::max_element(batch.score.begin(), batch.score.end()));
    return loss;
  };
}

}  // namespace hone::loss
