#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "rollout/generate.h"

namespace hone::rollout {
namespace {

// The first of the largest.
int32_t argmax(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  float most[kLanes];
  std::fill_n(most, kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) most[j] = std::max(most[j], logits[i + j]);
  }
  float best = *std::max_element(most, most + kLanes);
  for (; i < logits.size(); ++i) best = std::max(best, logits[i]);
  const auto at = std::find(logits.begin(), logits.end(), best);
  return at == logits.end() ? 0 : static_cast<int32_t>(at - logits.begin());
}

// Walks the cumulative weights in the order given; the last id catches rounding.
int32_t walk(std::span<const int32_t> ids, std::span<const double> weights, double total,
             double u) {
  const double target = u * total;
  double sum = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    sum += weights[i];
    if (target < sum) return ids[i];
  }
  return ids.back();
}

}  // namespace

void check_sampling(const SamplingOptions& o) {
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature)) {
    user_error("temperature", "{} is not usable; use 0 for greedy or a positive number",
               o.temperature);
  }
  if (o.top_k < 0) user_error("top_k", "{} is negative; use 0 for off", o.top_k);
  if (!(o.top_p > 0 && o.top_p <= 1))
    user_error("top_p", "{} is not in (0, 1]; use 1 for off", o.top_p);
  if (o.num_samples < 1)
    user_error("num_samples", "{} is not a count; use 1 or more", o.num_samples);
  if (o.max_new_tokens < 1)
    user_error("max_new_tokens", "{} is not a count; use 1 or more", o.max_new_tokens);
  if (o.batch_size < 1) user_error("batch_size", "{} is not a count; use 1 or more", o.batch_size);
}

int32_t draw(std::span<const float> logits, const SamplingOptions& o, double u) {
  if (o.temperature == 0) return argmax(logits);
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  // Larger logit first, ties to the lower id: one order for top_k, top_p and the walk.
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  const bool sorted = o.top_k > 0 || o.top_p < 1;
  if (o.top_k > 0 && o.top_k < static_cast<int64_t>(ids.size())) {
    std::nth_element(ids.begin(), ids.begin() + o.top_k - 1, ids.end(), before);
    ids.resize(static_cast<size_t>(o.top_k));
  }
  if (sorted) std::sort(ids.begin(), ids.end(), before);
  const double highest = sorted ? logits[static_cast<size_t>(ids[0])]
                                : *std::max_element(logits.begin(), logits.end());
  std::vector<double> weights(ids.size());
  double total = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    weights[i] = std::exp((static_cast<double>(logits[static_cast<size_t>(ids[i])]) - highest) /
                          o.temperature);
    total += weights[i];
  }
  if (o.top_p < 1) {
    // The smallest set of most likely ids whose probability reaches top_p; never empty.
    double sum = 0;
    size_t n = 0;
    while (n < ids.size() && (n == 0 || sum < o.top_p * total)) sum += weights[n++];
    ids.resize(n);
    weights.resize(n);
    total = sum;
  }
  return walk(ids, weights, total, u);
}

}  // namespace hone::rollout
