// Packing: every sample once and whole, within the budget, and rows that name the right targets.
#include "data/packing.h"

#include <algorithm>
#include <map>
#include <random>

#include "data_test_util.h"

namespace hone::data {
namespace {

// Samples of random length; some have nothing to train.
std::vector<Sample> random_samples(std::mt19937_64& random, int64_t n, int64_t longest) {
  std::vector<Sample> samples;
  for (int64_t i = 0; i < n; ++i) {
    Sample s;
    s.index = i;
    s.key = 1000 + static_cast<uint64_t>(i);
    const size_t length = random() % static_cast<uint64_t>(longest + 1);
    const int kind = static_cast<int>(random() % 4);
    for (size_t t = 0; t < length; ++t) {
      s.tokens.push_back(static_cast<int32_t>(random() % 50000));
      s.trained.push_back(t > 0 && kind > 0 && random() % 4 < static_cast<uint64_t>(kind));
    }
    s.trained_count = std::count(s.trained.begin(), s.trained.end(), uint8_t{1});
    samples.push_back(std::move(s));
  }
  return samples;
}

TEST(Packing, Properties) {
  std::mt19937_64 random(11);
  for (int trial = 0; trial < 400; ++trial) {
    const auto n = static_cast<int64_t>(random() % 40);
    const auto samples = random_samples(random, n, 1 + static_cast<int64_t>(random() % 100));
    PackOptions options;
    options.token_budget = 1 + static_cast<int64_t>(random() % 150);
    options.targets = trial % 2 ? Targets::kTrained : Targets::kAll;
    const auto wanted = [&](const Sample& s, size_t t) {
      return t > 0 && (options.targets == Targets::kAll || s.trained[t]);
    };

    std::map<int64_t, int> seen;
    int64_t last_first = -1, total = 0;
    const auto batches = pack(samples, options);
    for (const MicroBatch& batch : batches) {
      const auto& segments = batch.stream.segments;
      ASSERT_EQ(segments.size(), batch.samples.size());
      ASSERT_TRUE(batch.computed() <= options.token_budget || segments.size() == 1);
      ASSERT_TRUE(std::is_sorted(batch.samples.begin(), batch.samples.end()));
      ASSERT_GT(batch.samples.front(), last_first);
      last_first = batch.samples.front();
      ASSERT_EQ(batch.rows.size(), batch.targets.size());
      ASSERT_EQ(batch.rows.size(), batch.row_segments.size());
      ASSERT_EQ(batch.rows.size(), batch.row_positions.size());

      int32_t at = 0;
      int64_t tokens = 0;
      size_t row = 0;
      for (size_t g = 0; g < segments.size(); ++g) {
        const Segment& segment = segments[g];
        const Sample& sample = samples[static_cast<size_t>(batch.samples[g])];
        ++seen[batch.samples[g]];
        tokens += sample.size();
        // Attention stays inside: a segment of its own, without parent, positions from 0.
        ASSERT_EQ(segment.begin, at);
        ASSERT_EQ(segment.parent, -1);
        ASSERT_EQ(segment.pos0, 0);
        ASSERT_EQ(segment.key, sample.key);
        size_t last = 0;
        for (size_t t = 1; t < sample.tokens.size(); ++t)
          if (wanted(sample, t)) last = t;
        ASSERT_EQ(segment.len, static_cast<int32_t>(last));
        for (int32_t i = 0; i < segment.len; ++i) {
          const auto p = static_cast<size_t>(at + i);
          ASSERT_EQ(batch.stream.tokens[p], sample.tokens[static_cast<size_t>(i)]);
          ASSERT_EQ(batch.stream.positions[p], i);
        }
        // Rows, the naive way.
        for (size_t t = 1; t < sample.tokens.size(); ++t) {
          if (!wanted(sample, t)) continue;
          ASSERT_LT(row, batch.rows.size());
          ASSERT_EQ(batch.rows[row], at + static_cast<int32_t>(t) - 1);
          ASSERT_EQ(batch.targets[row], sample.tokens[t]);
          ASSERT_EQ(batch.row_segments[row], static_cast<int32_t>(g));
          ASSERT_EQ(batch.row_positions[row], static_cast<int64_t>(t));
          ++row;
        }
        at += segment.len;
      }
      ASSERT_EQ(row, batch.rows.size());
      ASSERT_EQ(at, batch.stream.size());
      ASSERT_EQ(tokens, batch.tokens);
      total += batch.computed();
    }
    int64_t needed = 0;
    for (size_t i = 0; i < samples.size(); ++i) {
      const int64_t length = computed_tokens(samples[i], options.targets);
      ASSERT_EQ(seen[static_cast<int64_t>(i)], length > 0 ? 1 : 0);
      needed += length;
    }
    ASSERT_EQ(total, needed);
  }
}

// First fit never opens a bin while two are at most half full (but for samples over the budget).
TEST(Packing, FillsTheBudget) {
  std::mt19937_64 random(12);
  for (int trial = 0; trial < 100; ++trial) {
    auto samples = random_samples(random, 64, 60);
    const auto batches = pack(samples, {.token_budget = 256, .targets = Targets::kAll});
    int half_empty = 0;
    for (const auto& batch : batches) half_empty += batch.computed() <= 128;
    EXPECT_LE(half_empty, 1);
  }
}

TEST(Packing, NothingToCompute) {
  Sample untrained;
  untrained.tokens = {1, 2, 3};
  untrained.trained = {0, 0, 0};
  EXPECT_TRUE(pack(std::span(&untrained, 1), {}).empty());
  EXPECT_TRUE(pack({}, {}).empty());
  Sample one;
  one.tokens = {5};
  one.trained = {0};
  EXPECT_TRUE(pack(std::span(&one, 1), {.targets = Targets::kAll}).empty());
}

}  // namespace
}  // namespace hone::data
