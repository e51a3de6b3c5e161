#include <cmath>
#include <map>

#include "core/error.h"
#include "loss/policy.h"

namespace hone::loss {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Mean and deviation (n - 1) of what is a number; 0 values or 1 value: no deviation.
struct Moments {
  double mean = kNan, deviation = kNan;
  int64_t count = 0;
};
Moments moments(const std::vector<double>& x) {
  Moments m;
  double sum = 0;
  for (const double v : x) {
    if (std::isnan(v)) continue;
    sum += v;
    m.count++;
  }
  if (m.count == 0) return m;
  m.mean = sum / static_cast<double>(m.count);
  if (m.count == 1) return m;
  double squares = 0;
  for (const double v : x)
    if (!std::isnan(v)) squares += (v - m.mean) * (v - m.mean);
  m.deviation = std::sqrt(squares / static_cast<double>(m.count - 1));
  return m;
}

using Groups = std::vector<std::vector<std::size_t>>;
Groups groups_of(const Batch& batch) {
  std::map<int64_t, std::size_t> position;
  Groups groups;
  for (std::size_t i = 0; i < batch.samples; ++i) {
    const auto [it, fresh] = position.try_emplace(batch.group[i], groups.size());
    if (fresh) groups.emplace_back();
    groups[it->second].push_back(i);
  }
  return groups;
}

std::vector<double> pick(const std::vector<double>& x, const std::vector<std::size_t>& at) {
  std::vector<double> y;
  for (const std::size_t i : at) y.push_back(x[i]);
  return y;
}

// (x - mean) / (deviation + 1e-4), without a deviation not divided.
void standardise(std::vector<double>& x, const std::vector<std::size_t>& at, double deviation) {
  const double mean = moments(pick(x, at)).mean;
  for (const std::size_t i : at) {
    x[i] -= mean;
    if (!std::isnan(deviation)) x[i] /= deviation + 1e-4;
  }
}

std::vector<std::size_t> all_of(const Batch& batch) {
  std::vector<std::size_t> all(batch.samples);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  return all;
}

// Columns [function][sample], NaN where absent.
std::vector<std::vector<double>> columns_of(const Batch& batch, const AdvantageOptions& o) {
  const std::size_t functions = batch.rewards.empty() ? 0 : batch.rewards[0].size();
  if (functions == 0) user_error("loss", "the samples have neither \"advantage\" nor \"rewards\"");
  if (!o.weights.empty() && o.weights.size() != functions)
    user_error("loss", "--reward_weights has {} numbers for {} rewards a sample", o.weights.size(),
               functions);
  std::vector<std::vector<double>> columns(functions, std::vector<double>(batch.samples, kNan));
  for (std::size_t i = 0; i < batch.samples; ++i) {
    if (batch.rewards[i].size() != functions)
      user_error("loss", "sample {} has {} rewards, the first one {}", i + 1,
                 batch.rewards[i].size(), functions);
    for (std::size_t k = 0; k < functions; ++k) columns[k][i] = batch.rewards[i][k].value_or(kNan);
  }
  return columns;
}

// Weighted sum over the functions; NaN where all are absent.
std::vector<double> total(const std::vector<std::vector<double>>& columns,
                          const AdvantageOptions& o) {
  std::vector<double> sum(columns[0].size(), kNan);
  for (std::size_t k = 0; k < columns.size(); ++k) {
    for (std::size_t i = 0; i < sum.size(); ++i) {
      if (std::isnan(columns[k][i])) continue;
      const double v = columns[k][i] * (o.weights.empty() ? 1.0 : o.weights[k]);
      sum[i] = std::isnan(sum[i]) ? v : sum[i] + v;
    }
  }
  return sum;
}

void leave_one_out(std::vector<double>& reward, const Groups& groups) {
  for (const std::vector<std::size_t>& g : groups) {
    const Moments m = moments(pick(reward, g));
    for (const std::size_t i : g) {
      const double others =
          (m.mean * static_cast<double>(m.count) - reward[i]) / static_cast<double>(m.count - 1);
      reward[i] = m.count > 1 ? reward[i] - others : 0;
    }
  }
}

}  // namespace

std::vector<double> advantages_of(const Batch& batch, const AdvantageOptions& o,
                                  const std::vector<double>& penalty, Metrics& metrics) {
  if (batch.group.size() != batch.samples || batch.rewards.size() != batch.samples)
    user_error("loss", "every sample needs an \"advantage\", or \"group\" and \"rewards\"");
  const Groups groups = groups_of(batch);
  std::vector<std::vector<double>> columns = columns_of(batch, o);
  std::vector<double> reward = total(columns, o);
  const Moments overall = moments(reward);
  metrics.emplace_back("reward", overall.mean);
  metrics.emplace_back("reward_std", std::isnan(overall.deviation) ? 0 : overall.deviation);
  for (std::size_t k = 0; k < columns.size(); ++k) {
    const Moments m = moments(columns[k]);
    metrics.emplace_back(fmt::format("rewards/{}/mean", k), m.mean);
    metrics.emplace_back(fmt::format("rewards/{}/std", k),
                         std::isnan(m.deviation) ? 0 : m.deviation);
  }
  double constant = 0;
  for (const std::vector<std::size_t>& g : groups) {
    const double d = moments(pick(reward, g)).deviation;
    if (!(d > 1e-8)) constant += static_cast<double>(g.size());
  }
  metrics.emplace_back("frac_reward_zero_std", constant / static_cast<double>(batch.samples));

  std::vector<double> a;
  if (o.estimator == "rloo") {
    a = std::move(reward);
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (o.clip_range) a[i] = std::clamp(a[i], o.clip_range->first, o.clip_range->second);
      if (!penalty.empty()) a[i] -= penalty[i];
    }
    leave_one_out(a, groups);
    if (o.normalize_advantages) standardise(a, all_of(batch), moments(a).deviation);
  } else if (o.normalize_then_sum) {
    for (std::vector<double>& c : columns)
      for (const std::vector<std::size_t>& g : groups) {
        const double d = moments(pick(c, g)).deviation;
        standardise(c, g, std::isnan(d) ? 0 : d);
      }
    a = total(columns, o);
    const double d = moments(a).deviation;
    standardise(a, all_of(batch), std::isnan(d) ? 0 : d);
  } else {
    a = std::move(reward);
    for (const std::vector<std::size_t>& g : groups) {
      const double d = o.scale == ScaleRewards::none    ? kNan
                       : o.scale == ScaleRewards::batch ? overall.deviation
                                                        : moments(pick(a, g)).deviation;
      standardise(a, g, d);
    }
  }
  for (double& v : a)
    if (std::isnan(v)) v = 0;
  return a;
}

}  // namespace hone::loss
