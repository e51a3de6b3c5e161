#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "rollout/generate.h"

namespace hone::rollout {
namespace {

// The first of the largest: the first block with it, then its place there.
int32_t argmax(std::span<const float> logits) {
  using Lanes = float __attribute__((vector_size(16)));
  constexpr size_t kLanes = 4, kVectors = 4, kStep = kLanes * kVectors, kBlock = 128 * kStep;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  float best = kLowest;
  size_t begin = 0;
  for (size_t block = 0; block < logits.size(); block += kBlock) {
    const auto part = logits.subspan(block, std::min(kBlock, logits.size() - block));
    Lanes most[kVectors];
    for (Lanes& m : most) m = Lanes{kLowest, kLowest, kLowest, kLowest};
    size_t i = 0;
    for (; i + kStep <= part.size(); i += kStep) {
      Lanes x[kVectors];
      std::memcpy(x, part.data() + i, sizeof x);
      for (size_t v = 0; v < kVectors; ++v) most[v] = x[v] > most[v] ? x[v] : most[v];
    }
    float highest = kLowest;
    for (const Lanes& m : most) {
      for (size_t lane = 0; lane < kLanes; ++lane) highest = std::max(highest, m[lane]);
    }
    for (; i < part.size(); ++i) highest = std::max(highest, part[i]);
    if (highest > best) {
      best = highest;
      begin = block;
    }
  }
  const auto from = logits.begin() + static_cast<std::ptrdiff_t>(begin);
  const auto at = std::find(from, logits.end(), best);
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
