#include "loss/policy.h"

#include <cmath>

#include "core/error.h"

namespace hone::loss {
namespace {

using namespace autodiff;

double sum_of(const std::vector<double>& v) {
  double s = 0;
  for (const double x : v) s += x;
  return s;
}

// The mask of tokens that count, as 0 and 1.
std::vector<double> mask_of(const Batch& batch, bool without_truncated) {
  std::vector<double> m(batch.tokens().total(), 1.0);
  if (batch.mask.present()) {
    need(batch, batch.mask, "mask");
    for (std::size_t t = 0; t < m.size(); ++t) m[t] = batch.mask.values[t] != 0 ? 1 : 0;
  }
  if (!without_truncated) return m;
  if (batch.truncated.size() != batch.samples)
    user_error("loss", "--mask_truncated_completions needs \"truncated\" in every sample");
  for (std::size_t i = 0; i < batch.samples; ++i)
    for (std::size_t t = batch.tokens().begin(i); batch.truncated[i] && t < batch.tokens().end(i);
         ++t)
      m[t] = 0;
  return m;
}

// Tokens of each sample that count, at least 1.
std::vector<double> counts_of(const Segments& s, const std::vector<double>& mask) {
  std::vector<double> n(s.count(), 0);
  for (std::size_t i = 0; i < s.count(); ++i) {
    for (std::size_t t = s.begin(i); t < s.end(i); ++t) n[i] += mask[t];
    n[i] = std::max(n[i], 1.0);
  }
  return n;
}

std::vector<double> advantages(const Batch& batch, const AdvantageOptions& o,
                               const std::vector<double>& penalty, Notes& notes) {
  notes.advantages =
      batch.advantage.empty() ? advantages_of(batch, o, penalty, notes.metrics) : batch.advantage;
  if (notes.advantages.size() != batch.samples)
    user_error("loss", "some samples have an \"advantage\" and some have none");
  return notes.advantages;
}

// Tokens whose entropy is at or above the quantile 1 - top, with linear interpolation.
std::vector<double> high_entropy(const Batch& batch, const std::vector<double>& mask, double top) {
  std::vector<double> sorted;
  for (std::size_t t = 0; t < mask.size(); ++t)
    if (mask[t] != 0) sorted.push_back(batch.entropy.values[t]);
  std::vector<double> out(mask.size(), 0.0);
  if (sorted.empty()) return out;
  std::sort(sorted.begin(), sorted.end());
  const double at = (1 - top) * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  const double threshold =
      sorted[low] + (sorted[high] - sorted[low]) * (at - static_cast<double>(low));
  for (std::size_t t = 0; t < mask.size(); ++t)
    out[t] = mask[t] != 0 && batch.entropy.values[t] >= threshold ? 1 : 0;
  return out;
}

// What the terms of GRPO share.
struct Terms {
  Vec logprob;                    // [tokens]
  Vec log_ratio;                  // [tokens] against the old policy
  Vec coef;                       // [tokens] the ratio, of the token or of its sequence
  Vec advantage;                  // [tokens]
  std::vector<double> per_token;  // advantage, as numbers
  Vec mask;                       // [tokens]
  std::vector<double> keep;       // mask, as numbers
  Segments tokens;
};

Vec sequence_mean(Tape& tape, const Vec& x, const Vec& mask, const std::vector<double>& keep,
                  const Segments& s) {
  return sum(x * mask, s) / tape.constant(counts_of(s, keep));
}

Vec clipped_term(const Terms& t, const GrpoOptions& o, double high, Notes& notes) {
  const Vec clipped = clamp(t.coef, 1 - o.epsilon, 1 + high);
  const Vec upper = o.delta ? clamp(t.coef, -HUGE_VAL, *o.delta) : t.coef;
  double low_count = 0, high_count = 0;
  for (std::size_t i = 0; i < t.keep.size(); ++i) {
    if (t.keep[i] == 0) continue;
    const double r = upper.value()[i], a = t.per_token[i];
    low_count += r < 1 - o.epsilon && a < 0 ? 1 : 0;
    high_count += r > 1 + high && a > 0 ? 1 : 0;
  }
  const double n = std::max(1.0, sum_of(t.keep));
  notes.metrics.emplace_back("clip_ratio/low_mean", low_count / n);
  notes.metrics.emplace_back("clip_ratio/high_mean", high_count / n);
  notes.metrics.emplace_back("clip_ratio/region_mean", (low_count + high_count) / n);
  return -min(upper * t.advantage, clipped * t.advantage);
}

// SAPO (Gao et al., 2025): a soft gate instead of a clip.
Vec sapo_term(Tape& tape, const Terms& t, const GrpoOptions& o) {
  std::vector<double> tau;
  for (const double a : t.per_token)
    tau.push_back(a > 0 ? o.sapo_temperature_pos : o.sapo_temperature_neg);
  const Vec temperature = tape.constant(std::move(tau));
  return -(sigmoid(temperature * (t.coef - 1.0)) * 4.0 / temperature * t.advantage);
}

// VESPO: a gamma-shaped weight of the sequence's ratio; no adjoint through it.
Vec vespo_term(Tape& tape, const Batch& batch, const Terms& t, const GrpoOptions& o, Notes& notes) {
  const double low = std::log(1e-8);
  Vec log_w = sum(clamp(t.log_ratio, -20, 20) * t.mask, t.tokens);
  if (batch.sampling_ratio.present()) {
    log_w = log_w + sum(clamp(log(tape.constant(batch.sampling_ratio.values)), low, 20), t.tokens);
  }
  const Vec w = detach(clamp(log_w, low, 20));
  std::vector<double> k(batch.samples), lambda(batch.samples);
  for (std::size_t i = 0; i < batch.samples; ++i) {
    const bool good = t.tokens.length(i) == 0 || t.per_token[t.tokens.begin(i)] >= 0;
    k[i] = good ? o.vespo_k_pos : o.vespo_k_neg;
    lambda[i] = std::max(1e-4, good ? o.vespo_lambda_pos : o.vespo_lambda_neg);
  }
  const Vec l = tape.constant(std::move(lambda));
  const Vec phi = exp(l + tape.constant(std::move(k)) * w - l * exp(w));
  notes.metrics.emplace_back("vespo/phi_seq_mean",
                             sum_of(phi.value()) / static_cast<double>(batch.samples));
  return -(spread(phi, t.tokens) * t.advantage * t.logprob);
}

Vec token_term(Tape& tape, const Batch& batch, const Terms& t, const GrpoOptions& o, double high,
               Notes& notes) {
  if (o.loss == "cispo") {
    double capped = 0;
    for (std::size_t i = 0; i < t.keep.size(); ++i)
      capped += t.keep[i] != 0 && t.coef.value()[i] > high && t.per_token[i] > 0 ? 1 : 0;
    notes.metrics.emplace_back("cispo_clip_ratio", capped / std::max(1.0, sum_of(t.keep)));
    return -(detach(clamp(t.coef, -HUGE_VAL, high)) * t.advantage * t.logprob);
  }
  if (o.loss == "sapo") return sapo_term(tape, t, o);
  if (o.loss == "vespo") return vespo_term(tape, batch, t, o, notes);
  return clipped_term(t, o, high, notes);
}

Vec aggregate(Tape& tape, const Vec& term, const Terms& t, const GrpoOptions& o) {
  const Vec masked = term * t.mask;
  const double n = static_cast<double>(t.tokens.count());
  const auto accumulation = static_cast<double>(o.gradient_accumulation_steps);
  if (o.loss == "grpo" || o.loss == "sapo")
    return mean(sequence_mean(tape, term, t.mask, t.keep, t.tokens)) / accumulation;
  if (o.loss == "bnpo") return sum(masked) / std::max(1.0, sum_of(t.keep)) / accumulation;
  if (o.loss == "dr_grpo")
    return sum(masked) / (n * static_cast<double>(o.max_completion_length)) / accumulation;
  if (o.loss == "luspo") return sum(masked) / n / accumulation;
  const double steps = static_cast<double>(
      o.steps_per_generation > 0 ? o.steps_per_generation : o.gradient_accumulation_steps);
  const double items =
      o.num_items_in_batch > 0 ? static_cast<double>(o.num_items_in_batch) : sum_of(t.keep);
  return sum(masked) / (std::max(1.0, items) * accumulation / steps);
}

// GMPO (Zhao et al., 2025): the geometric mean of ratios clipped on the side the advantage says.
Vec gmpo(Tape& tape, const Terms& t, const std::vector<double>& a, const GrpoOptions& o,
         double high, const std::vector<double>& keep) {
  std::vector<uint8_t> positive;
  for (const double x : t.per_token) positive.push_back(x > 0 ? 1 : 0);
  const Vec clamped = clamp(t.log_ratio, -o.epsilon, high);
  const Vec one_sided = where(positive, min(t.log_ratio, clamped), max(t.log_ratio, clamped));
  const Vec mask = tape.constant(keep);
  return -(exp(sequence_mean(tape, one_sided, mask, keep, t.tokens)) * tape.constant(a));
}

void check_grpo(const GrpoOptions& o) {
  static const std::vector<std::string> kAll = {"grpo",  "bnpo", "dr_grpo", "dapo", "luspo",
                                                "cispo", "sapo", "vespo",   "gmpo"};
  if (std::find(kAll.begin(), kAll.end(), o.loss) == kAll.end())
    user_error("loss", "--loss {} is not known to grpo; use one of {}", o.loss,
               fmt::format("{}", fmt::join(kAll, ", ")));
  if (!(o.epsilon >= 0)) user_error("loss", "--epsilon {} is negative", o.epsilon);
  if (!(o.beta >= 0)) user_error("loss", "--beta {} is negative", o.beta);
  if (!(o.top_entropy_quantile > 0 && o.top_entropy_quantile <= 1))
    user_error("loss", "--top_entropy_quantile {} is not in (0, 1]", o.top_entropy_quantile);
  if (o.max_completion_length < 1 || o.gradient_accumulation_steps < 1)
    user_error("loss", "--max_completion_length and --gradient_accumulation_steps are 1 or more");
  if (o.delta && !(*o.delta > 1 + o.epsilon))
    user_error("loss", "--delta {} is not above 1 + epsilon", *o.delta);
}

}  // namespace

Loss grpo_loss(const GrpoOptions& options) {
  check_grpo(options);
  return [o = options](Tape& tape, const Batch& batch, const Variables& v, Notes& notes) {
    const double high = o.epsilon_high.value_or(o.epsilon);
    Terms t;
    t.tokens = batch.tokens();
    t.logprob = v.logprob;
    t.keep = mask_of(batch, o.mask_truncated_completions);
    t.mask = tape.constant(t.keep);
    const std::vector<double> a = advantages(batch, o.advantage, {}, notes);
    t.advantage = spread(tape.constant(a), t.tokens);
    t.per_token = t.advantage.value();
    if (batch.old_logprob.present()) need(batch, batch.old_logprob, "old_logprob");
    t.log_ratio = v.logprob - (batch.old_logprob.present() ? tape.constant(batch.old_logprob.values)
                                                           : detach(v.logprob));
    t.coef = exp(o.sequence_level
                     ? spread(sequence_mean(tape, t.log_ratio, t.mask, t.keep, t.tokens), t.tokens)
                     : t.log_ratio);
    std::vector<double> entropy_mask = t.keep;
    if (o.top_entropy_quantile < 1) {
      need(batch, batch.entropy, "entropy");
      entropy_mask = high_entropy(batch, t.keep, o.top_entropy_quantile);
    }
    Vec kl;
    if (o.beta != 0) {
      need(batch, batch.ref_logprob, "ref_logprob");
      const Vec d = tape.constant(batch.ref_logprob.values) - v.logprob;
      kl = exp(d) - d - 1.0;
      if (o.use_bias_correction_kl && o.loss != "gmpo") kl = kl * t.coef;
      double s = 0;
      for (std::size_t i = 0; i < t.keep.size(); ++i) s += kl.value()[i] * t.keep[i];
      notes.metrics.emplace_back("kl", s / std::max(1.0, sum_of(t.keep)));
    }
    Vec loss;
    if (o.loss == "gmpo") {
      Vec term = gmpo(tape, t, a, o, high, entropy_mask);
      if (kl.defined()) term = term + sequence_mean(tape, kl, t.mask, t.keep, t.tokens) * o.beta;
      loss = mean(term) / static_cast<double>(o.gradient_accumulation_steps);
    } else {
      Vec term = token_term(tape, batch, t, o, high, notes);
      if (o.off_policy_mask_threshold) {
        // Sequences of negative advantage that have drifted too far count nothing.
        const Vec drift = sequence_mean(tape, detach(-t.log_ratio), t.mask, t.keep, t.tokens);
        std::vector<double> kept;
        for (std::size_t i = 0; i < batch.samples; ++i)
          kept.push_back(a[i] >= 0 || drift.value()[i] <= *o.off_policy_mask_threshold ? 1 : 0);
        term = term * spread(tape.constant(std::move(kept)), t.tokens);
      }
      if (o.top_entropy_quantile < 1) term = term * tape.constant(entropy_mask);
      if (batch.sampling_ratio.present() && o.loss != "vespo") {
        need(batch, batch.sampling_ratio, "importance_sampling_ratio");
        term = term * tape.constant(batch.sampling_ratio.values);
      }
      if (kl.defined()) term = term + kl * o.beta;
      loss = aggregate(tape, term, t, o);
    }
    if (batch.entropy.present()) {
      double s = 0, all = 0;
      for (std::size_t i = 0; i < t.keep.size(); ++i) {
        s += batch.entropy.values[i] * entropy_mask[i];
        all += batch.entropy.values[i] * t.keep[i];
      }
      notes.metrics.emplace_back("entropy", all / std::max(1.0, sum_of(t.keep)));
      if (o.entropy_coef != 0)
        loss = loss - o.entropy_coef * s / std::max(1.0, sum_of(entropy_mask)) /
                          static_cast<double>(o.gradient_accumulation_steps);
    } else if (o.entropy_coef != 0) {
      need(batch, batch.entropy, "entropy");
    }
    return loss;
  };
}

Loss rloo_loss(const RlooOptions& options) {
  RlooOptions o = options;
  o.advantage.estimator = "rloo";
  if (!(o.epsilon >= 0)) user_error("loss", "--epsilon {} is negative", o.epsilon);
  return [o](Tape& tape, const Batch& batch, const Variables& v, Notes& notes) {
    need(batch, batch.old_logprob, "old_logprob");
    const Vec mask = tape.constant(mask_of(batch, false));
    const Vec old = tape.constant(batch.old_logprob.values) * mask;
    std::vector<double> penalty;
    if (o.beta != 0 && batch.ref_logprob.present()) {
      need(batch, batch.ref_logprob, "ref_logprob");
      const Vec kl = sum(old - tape.constant(batch.ref_logprob.values) * mask, batch.tokens());
      notes.metrics.emplace_back("kl", sum_of(kl.value()) / static_cast<double>(batch.samples));
      penalty = (kl * o.beta).value();
    }
    const std::vector<double> a = advantages(batch, o.advantage, penalty, notes);
    const double high = o.epsilon_high.value_or(o.epsilon);
    const Vec ratio = exp(sum(v.logprob * mask, batch.tokens()) - sum(old, batch.tokens()));
    double low_count = 0, high_count = 0;
    for (std::size_t i = 0; i < batch.samples; ++i) {
      low_count += ratio.value()[i] < 1 - o.epsilon && a[i] < 0 ? 1 : 0;
      high_count += ratio.value()[i] > 1 + high && a[i] > 0 ? 1 : 0;
    }
    const double n = static_cast<double>(batch.samples);
    notes.metrics.emplace_back("clip_ratio/low_mean", low_count / n);
    notes.metrics.emplace_back("clip_ratio/high_mean", high_count / n);
    notes.metrics.emplace_back("clip_ratio/region_mean", (low_count + high_count) / n);
    const Vec advantage = tape.constant(a);
    return -mean(min(ratio * advantage, clamp(ratio, 1 - o.epsilon, 1 + high) * advantage));
  };
}

// ---- PPO

namespace {

// To variance 1 (n - 1), and mean 0 unless the mean is kept.
void whiten(std::vector<double>& x, bool keep_mean) {
  const double mean = sum_of(x) / static_cast<double>(x.size());
  double squares = 0;
  for (const double v : x) squares += (v - mean) * (v - mean);
  const double scale =
      x.size() > 1 ? 1 / std::sqrt(squares / static_cast<double>(x.size() - 1) + 1e-8) : 1;
  for (double& v : x) v = (v - mean) * scale + (keep_mean ? mean : 0);
}

// Generalised advantages (Schulman et al., 2016): delta = r + gamma V' - V.
std::vector<double> gae(const std::vector<double>& reward, const std::vector<double>& value,
                        const Segments& s, double gamma, double lam) {
  std::vector<double> a(reward.size());
  for (std::size_t i = 0; i < s.count(); ++i) {
    double next_value = 0, last = 0;
    for (std::size_t t = s.end(i); t-- > s.begin(i);) {
      last = reward[t] + gamma * next_value - value[t] + gamma * lam * last;
      a[t] = last;
      next_value = value[t];
    }
  }
  return a;
}

}  // namespace

Loss ppo_loss(const PpoOptions& o) {
  if (o.kl_estimator != "k1" && o.kl_estimator != "k3")
    user_error("loss", "--kl_estimator {} is not known; use k1 or k3", o.kl_estimator);
  if (!(o.gamma >= 0 && o.gamma <= 1) || !(o.lam >= 0 && o.lam <= 1))
    user_error("loss", "--gamma {} and --lam {} must lie in [0, 1]", o.gamma, o.lam);
  return [o](Tape& tape, const Batch& batch, const Variables& v, Notes& notes) {
    need(batch, batch.old_logprob, "old_logprob");
    need(batch, batch.ref_logprob, "ref_logprob");
    need(batch, batch.value, "value");
    need(batch, batch.old_value, "old_value");
    if (batch.score.size() != batch.samples) user_error("loss", "every sample needs a \"score\"");
    const Segments& s = batch.tokens();
    std::vector<double> reward(s.total());
    const std::vector<double> score = detach(v.score).value();
    double kl_sum = 0;
    for (std::size_t t = 0; t < reward.size(); ++t) {
      const double d = batch.ref_logprob.values[t] - batch.old_logprob.values[t];
      const double kl = o.kl_estimator == "k1" ? -d : std::exp(d) - 1 - d;
      kl_sum += kl;
      reward[t] = -o.kl_coef * kl;
    }
    for (std::size_t i = 0; i < s.count(); ++i) {
      if (s.length(i) == 0) user_error("loss", "sample {} has no tokens", i + 1);
      reward[s.end(i) - 1] += score[i];
    }
    if (o.whiten_rewards) whiten(reward, true);
    std::vector<double> a = gae(reward, batch.old_value.values, s, o.gamma, o.lam);
    std::vector<double> returns(a.size());
    for (std::size_t t = 0; t < a.size(); ++t) returns[t] = a[t] + batch.old_value.values[t];
    whiten(a, false);
    notes.advantages = a;

    const Vec advantage = tape.constant(std::move(a));
    const Vec target = tape.constant(std::move(returns));
    const Vec old_value = tape.constant(batch.old_value.values);
    const Vec ratio = exp(v.logprob - tape.constant(batch.old_logprob.values));
    const Vec policy = mean(
        max(-(ratio * advantage), -(clamp(ratio, 1 - o.cliprange, 1 + o.cliprange) * advantage)));
    const Vec near = old_value + clamp(v.value - old_value, -o.cliprange_value, o.cliprange_value);
    const Vec value = mean(max(square(v.value - target), square(near - target))) * 0.5;
    double clipped = 0;
    for (const double r : ratio.value())
      clipped += r < 1 - o.cliprange || r > 1 + o.cliprange ? 1 : 0;
    notes.metrics.emplace_back("loss/policy_avg", policy.scalar());
    notes.metrics.emplace_back("loss/value_avg", value.scalar());
    notes.metrics.emplace_back("policy/clipfrac_avg", clipped / static_cast<double>(ratio.size()));
    notes.metrics.emplace_back("objective/kl", kl_sum / static_cast<double>(batch.samples));
    return policy + value * o.vf_coef;
  };
}

}  // namespace hone::loss
