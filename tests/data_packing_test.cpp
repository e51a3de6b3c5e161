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

// Each sequence of a sample is packed as a sample of its own would be, with random numbers of its
// own, and they stay together where they fit.
TEST(Packing, SequencesAreSegmentsOfTheirOwn) {
  std::mt19937_64 random(13);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<Sample> joined;
    std::map<uint64_t, Sample> parts;  // by key
    for (int64_t i = 0; i < 12; ++i) {
      Sample& whole = joined.emplace_back();
      whole.index = i;
      whole.key = static_cast<uint64_t>(i);
      for (Sample& part : random_samples(random, 1 + static_cast<int64_t>(random() % 4), 30)) {
        if (part.tokens.empty()) continue;
        whole.tokens.insert(whole.tokens.end(), part.tokens.begin(), part.tokens.end());
        whole.trained.insert(whole.trained.end(), part.trained.begin(), part.trained.end());
        const auto key = whole.key | static_cast<uint64_t>(whole.lengths.size()) << 40;
        whole.lengths.push_back(static_cast<int32_t>(part.size()));
        parts[key] = std::move(part);
      }
      if (whole.lengths.size() < 2) whole.lengths.clear();
    }
    const int64_t budget = 20 + static_cast<int64_t>(random() % 60);
    std::map<int64_t, int> batches_of;  // of each sample
    size_t seen = 0;
    for (const MicroBatch& batch : pack(joined, {.token_budget = budget})) {
      EXPECT_TRUE(batch.computed() <= budget || batch.stream.segments.size() == 1);
      int64_t tokens = 0, last = -1;
      size_t row = 0;
      for (size_t g = 0; g < batch.stream.segments.size(); ++g) {
        const Segment& segment = batch.stream.segments[g];
        ASSERT_TRUE(parts.contains(segment.key));
        const Sample& part = parts.at(segment.key);
        const int64_t sample = batch.samples[g];
        EXPECT_EQ(segment.key & ((uint64_t{1} << 40) - 1), static_cast<uint64_t>(sample));
        if (sample != last) ++batches_of[sample];
        last = sample;
        ++seen;
        tokens += part.size();
        const auto alone = pack(std::span(&part, 1), {.token_budget = 1000});
        ASSERT_EQ(alone.size(), 1u);
        ASSERT_EQ(segment.len, alone[0].computed());
        int64_t begin = 0;  // of the sequence in its sample
        for (uint64_t k = 0; k < segment.key >> 40; ++k)
          begin += joined[static_cast<size_t>(sample)].lengths[k];
        for (int32_t i = 0; i < segment.len; ++i) {
          const auto p = static_cast<size_t>(segment.begin + i);
          ASSERT_EQ(batch.stream.tokens[p], part.tokens[static_cast<size_t>(i)]);
          ASSERT_EQ(batch.stream.positions[p], i);
        }
        for (size_t r = 0; r < alone[0].rows.size(); ++r, ++row) {
          ASSERT_EQ(batch.rows[row], segment.begin + alone[0].rows[r]);
          ASSERT_EQ(batch.targets[row], alone[0].targets[r]);
          ASSERT_EQ(batch.row_positions[row], begin + alone[0].row_positions[r]);
          ASSERT_EQ(batch.row_segments[row], static_cast<int32_t>(g));
        }
      }
      EXPECT_EQ(row, batch.rows.size());
      EXPECT_EQ(tokens, batch.tokens);
    }
    size_t wanted = 0;
    for (const auto& [key, part] : parts) wanted += computed_tokens(part, Targets::kTrained) > 0;
    EXPECT_EQ(seen, wanted);
    for (const auto& [sample, count] : batches_of) {
      if (computed_tokens(joined[static_cast<size_t>(sample)], Targets::kTrained) > budget)
        continue;
      EXPECT_EQ(count, 1);
    }
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

// Samples of a unit are in one micro-batch, over the budget if they must be; nothing is lost.
TEST(Packing, UnitsStayTogether) {
  std::mt19937_64 random(17);
  for (int trial = 0; trial < 200; ++trial) {
    const auto samples = random_samples(random, static_cast<int64_t>(random() % 30), 40);
    std::vector<int64_t> units;
    for (size_t i = 0; i < samples.size(); ++i)
      units.push_back(static_cast<int64_t>(random() % 8) * 1000);
    const int64_t budget = 1 + static_cast<int64_t>(random() % 150);
    std::map<int64_t, size_t> place;
    int64_t computed = 0;
    const auto batches = pack(samples, {.token_budget = budget, .units = units});
    for (size_t b = 0; b < batches.size(); ++b) {
      std::map<int64_t, int> in_batch;
      for (const int64_t s : batches[b].samples) {
        const int64_t unit = units[static_cast<size_t>(s)];
        ASSERT_EQ(place.try_emplace(unit, b).first->second, b);
        ++in_batch[unit];
      }
      ASSERT_TRUE(batches[b].computed() <= budget || in_batch.size() == 1);
      computed += batches[b].computed();
    }
    int64_t wanted = 0;
    for (const Sample& s : samples) wanted += computed_tokens(s, Targets::kTrained);
    ASSERT_EQ(computed, wanted);
  }
}

}  // namespace
}  // namespace hone::data
