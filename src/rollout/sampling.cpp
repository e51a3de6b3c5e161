#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "rollout/generate.h"

namespace hone::rollout {
namespace {

using Lanes = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
constexpr size_t kLanes = 4;

// The largest, but for NaN; minus infinity of none.
float highest_of(std::span<const float> logits) {
  constexpr size_t kVectors = 4, kStep = kLanes * kVectors;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  Lanes most[kVectors];
  for (Lanes& m : most) m = Lanes{kLowest, kLowest, kLowest, kLowest};
  size_t i = 0;
  for (; i + kStep <= logits.size(); i += kStep) {
    Lanes x[kVectors];
    std::memcpy(x, logits.data() + i, sizeof x);
    for (size_t v = 0; v < kVectors; ++v) most[v] = x[v] > most[v] ? x[v] : most[v];
  }
  float highest = kLowest;
  for (const Lanes& m : most) {
    for (size_t lane = 0; lane < kLanes; ++lane) highest = std::max(highest, m[lane]);
  }
  for (; i < logits.size(); ++i) highest = std::max(highest, logits[i]);
  return highest;
}

// The first of the largest: the first block with it, then its place there.
int32_t argmax(std::span<const float> logits) {
  constexpr size_t kBlock = 2048;
  float best = -std::numeric_limits<float>::infinity();
  size_t begin = 0;
  for (size_t block = 0; block < logits.size(); block += kBlock) {
    const float highest =
        highest_of(logits.subspan(block, std::min(kBlock, logits.size() - block)));
    if (highest > best) {
      best = highest;
      begin = block;
    }
  }
  const auto from = logits.begin() + static_cast<std::ptrdiff_t>(begin);
  const auto at = std::find(from, logits.end(), best);
  return at == logits.end() ? 0 : static_cast<int32_t>(at - logits.begin());
}

// 2^x for x <= 0, to a relative error of 3e-7; 0 below -126 and for NaN.
inline Lanes exp2_of(Lanes x) {
  const Ints in_range = x >= -126.0f;
  x = reinterpret_cast<Lanes>(reinterpret_cast<Ints>(x) & in_range);
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the nearest integer
  const Lanes shifted = x + kShift, f = x - (shifted - kShift);
  Lanes p = f * 1.5403530e-4f + 1.3333558e-3f;  // the Taylor series of 2^f, |f| <= 1/2
  for (const float c : {9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
    p = p * f + c;
  const Ints exponent = reinterpret_cast<Ints>(shifted) << 23;
  return reinterpret_cast<Lanes>((reinterpret_cast<Ints>(p) + exponent) & in_range);
}

constexpr size_t kBlock = 1024;

// Probabilities up to a common factor: exp((logit - highest) / temperature).
struct Weights {
  float highest, scale;
  Weights(std::span<const float> logits, double temperature)
      : highest(highest_of(logits)), scale(static_cast<float>(1.4426950408889634 / temperature)) {}
  // Of at most kBlock logits. Returns their sum.
  double of(std::span<const float> logits, float* out) const {
    Lanes sum = {};
    size_t i = 0;
    for (; i + kLanes <= logits.size(); i += kLanes) {
      Lanes x;
      std::memcpy(&x, logits.data() + i, sizeof x);
      x = exp2_of((x - highest) * scale);
      std::memcpy(out + i, &x, sizeof x);
      sum += x;
    }
    double all = static_cast<double>(sum[0]) + static_cast<double>(sum[1]) +
                 static_cast<double>(sum[2]) + static_cast<double>(sum[3]);
    for (; i < logits.size(); ++i) {
      const float x = (logits[i] - highest) * scale;
      out[i] = exp2_of(Lanes{x, x, x, x})[0];
      all += static_cast<double>(out[i]);
    }
    return all;
  }
};

// Calls fn(begin, block) for the blocks of logits.
template <class Fn>
void for_blocks(std::span<const float> logits, Fn fn) {
  for (size_t begin = 0; begin < logits.size(); begin += kBlock)
    fn(begin, logits.subspan(begin, std::min(kBlock, logits.size() - begin)));
}

double sum_of(std::span<const float> logits, const Weights& weights) {
  float w[kBlock];
  double sum = 0;
  for_blocks(logits, [&](size_t, std::span<const float> block) { sum += weights.of(block, w); });
  return sum;
}

// Where the running sum of the weights passes u of its total.
size_t walk(std::span<const float> logits, const Weights& weights, double u) {
  std::vector<double> sums;
  float w[kBlock];
  double total = 0;
  for_blocks(logits, [&](size_t, std::span<const float> block) {
    sums.push_back(weights.of(block, w));
    total += sums.back();
  });
  double left = u * total;
  size_t b = 0;
  while (b + 1 < sums.size() && left >= sums[b]) left -= sums[b++];
  const auto block = logits.subspan(b * kBlock, std::min(kBlock, logits.size() - b * kBlock));
  weights.of(block, w);
  size_t last = 0;  // what rounding leaves goes to the last one that has a weight
  for (size_t i = 0; i < block.size(); ++i) {
    if (w[i] == 0) continue;
    last = i;
    left -= static_cast<double>(w[i]);
    if (left < 0) break;
  }
  return b * kBlock + last;
}

// Ascending with x; 0 and -0 are one, NaN is the lowest.
uint32_t key_of(float x) {
  if (x != x) return 0;
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

// A histogram of the upper or the next 11 bits of keys.
struct Bins {
  static constexpr size_t kCount = 1 << 11;
  int shift;
  std::vector<double> sum = std::vector<double>(kCount);

  size_t of(float logit) const { return (key_of(logit) >> shift) % kCount; }
  // The bin of the last of the largest that are needed for target. reached: the sum of those above.
  size_t edge(double target, double& reached) const {
    size_t last = 0;
    bool any = false;
    for (size_t b = kCount; b-- > 0;) {
      if (sum[b] == 0) continue;
      if (any) reached += sum[last];
      last = b;
      any = true;
      if (reached + sum[b] >= target) break;
    }
    return last;
  }
};

// Tokens in ascending order.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<float> logits;
};

// The fewest of the largest logits, lower ids first among equals, one at least, whose number or,
// with weights, whose sum of weights reaches target. A radix selection: only what has 22 bits in
// common with the last one is sorted.
Tokens largest(std::span<const float> logits, double target, const Weights* weights) {
  Bins upper{32 - 11}, lower{32 - 22};
  float w[kBlock];
  std::fill(w, w + kBlock, 1.0f);
  for_blocks(logits, [&](size_t, std::span<const float> block) {
    if (weights != nullptr) weights->of(block, w);
    for (size_t i = 0; i < block.size(); ++i)
      upper.sum[upper.of(block[i])] += static_cast<double>(w[i]);
  });
  double reached = 0;
  const size_t last = upper.edge(target, reached);
  struct Edge {
    float logit;
    int32_t id;
    double measure;
  };
  std::vector<Edge> edge;
  for_blocks(logits, [&](size_t begin, std::span<const float> block) {
    bool weighed = weights == nullptr;
    for (size_t i = 0; i < block.size(); ++i) {
      if (upper.of(block[i]) != last) continue;
      if (!weighed) weights->of(block, w);
      weighed = true;
      edge.push_back({block[i], static_cast<int32_t>(begin + i), static_cast<double>(w[i])});
      lower.sum[lower.of(block[i])] += edge.back().measure;
    }
  });
  const size_t last_lower = lower.edge(target, reached);
  std::erase_if(edge, [&](const Edge& e) { return lower.of(e.logit) != last_lower; });
  std::stable_sort(edge.begin(), edge.end(),
                   [](const Edge& a, const Edge& b) { return a.logit > b.logit; });
  if (edge.empty()) return {};  // of no logits
  // All above the least one stay, and of those equal to it the ids up to its.
  Edge least = edge.front();
  for (const Edge& e : edge) {
    least = e;
    reached += e.measure;
    if (reached >= target) break;
  }
  Tokens t;
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (!(logits[i] > least.logit) && !(logits[i] == least.logit && id <= least.id)) continue;
    t.ids.push_back(id);
    t.logits.push_back(logits[i]);
  }
  return t;
}

// The largest of every kGroup logits.
constexpr size_t kGroup = 64;
std::vector<float> group_maxima(std::span<const float> logits) {
  std::vector<float> maxima;
  maxima.reserve(logits.size() / kGroup + 1);
  for (size_t begin = 0; begin < logits.size(); begin += kGroup)
    maxima.push_back(highest_of(logits.subspan(begin, std::min(kGroup, logits.size() - begin))));
  return maxima;
}

Tokens at_least(std::span<const float> logits, const std::vector<float>& maxima, float bound) {
  Tokens t;
  for (size_t g = 0; g < maxima.size(); ++g) {
    if (!(maxima[g] >= bound)) continue;
    for (size_t i = g * kGroup; i < std::min((g + 1) * kGroup, logits.size()); ++i) {
      if (!(logits[i] >= bound)) continue;
      t.ids.push_back(static_cast<int32_t>(i));
      t.logits.push_back(logits[i]);
    }
  }
  return t;
}

// `largest` of those that `from` lists.
Tokens largest_of(const Tokens& from, double target, const Weights* weights) {
  Tokens t = largest(from.logits, target, weights);
  for (int32_t& id : t.ids) id = from.ids[static_cast<size_t>(id)];
  return t;
}

Tokens top_k(std::span<const float> logits, size_t k) {
  const std::vector<float> maxima = group_maxima(logits);
  if (k > maxima.size()) return largest(logits, static_cast<double>(k), nullptr);
  std::vector<float> sorted = maxima;
  const auto kth = sorted.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<>());
  // k groups have one of at least that
  return largest_of(at_least(logits, maxima, *kth), static_cast<double>(k), nullptr);
}

Tokens top_p(std::span<const float> logits, double p, const Weights& weights) {
  const double target = p * sum_of(logits, weights);
  const std::vector<float> maxima = group_maxima(logits);
  for (const float bits : {10.0f, 20.0f}) {  // what weighs less than 2^-bits is seldom needed
    const Tokens few = at_least(logits, maxima, weights.highest - bits / weights.scale);
    if (few.ids.size() > logits.size() / 8) break;
    if (sum_of(few.logits, weights) >= target) return largest_of(few, target, &weights);
  }
  return largest(logits, target, &weights);
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
  const Weights weights(logits, o.temperature);
  const bool few = o.top_k > 0 && o.top_k < static_cast<int64_t>(logits.size());
  if (!few && o.top_p == 1) return static_cast<int32_t>(walk(logits, weights, u));
  Tokens t;
  if (few) {
    t = top_k(logits, static_cast<size_t>(o.top_k));
    if (o.top_p < 1) t = largest_of(t, o.top_p * sum_of(t.logits, weights), &weights);
  } else {
    t = top_p(logits, o.top_p, weights);
  }
  if (t.ids.empty()) return argmax(logits);  // no logit is a number
  return t.ids[walk(t.logits, weights, u)];
}

}  // namespace hone::rollout
