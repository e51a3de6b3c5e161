// The training order, the look-ahead and the token cache.
#include "data/loader.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "data/packing.h"
#include "data/token_cache.h"
#include "data_test_util.h"

namespace hone::data {
namespace {

using data_test::message_of;
using data_test::open_files;
using data_test::TempFolder;

TEST(Permutation, IsABijection) {
  std::vector<int64_t> sizes(300);
  std::iota(sizes.begin(), sizes.end(), 1);
  for (const int64_t n : {1000, 1023, 1024, 1025, 4096, 4097, 65536, 65537, 100003})
    sizes.push_back(n);
  for (const int64_t n : sizes) {
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      const Permutation permutation(n, 7, epoch);
      std::vector<bool> seen(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) {
        const int64_t to = permutation(i);
        ASSERT_TRUE(to >= 0 && to < n);
        ASSERT_FALSE(seen[static_cast<size_t>(to)]) << n;
        seen[static_cast<size_t>(to)] = true;
      }
    }
  }
}

TEST(Permutation, HugeRangesStayInside) {
  for (const int64_t n : {int64_t{1} << 40, (int64_t{1} << 40) + 1, INT64_MAX >> 1}) {
    const Permutation permutation(n, 1, 0);
    std::set<int64_t> seen;
    for (int64_t i = 0; i < 1000; ++i) {
      const int64_t to = permutation(n - 1 - i * 12345);
      ASSERT_TRUE(to >= 0 && to < n);
      seen.insert(to);
    }
    EXPECT_EQ(seen.size(), 1000u);
  }
}

// Where an element goes is uniform over seeds, epochs, and whatever the neighbours do.
TEST(Permutation, LooksRandom) {
  for (const int64_t n : {5, 100}) {
    std::vector<int> hits(static_cast<size_t>(n * n));
    constexpr int kTrials = 20000;
    int ascents = 0;
    for (int trial = 0; trial < kTrials; ++trial) {
      const Permutation permutation(n, static_cast<uint64_t>(trial / 10), trial % 10);
      int64_t last = -1;
      for (int64_t i = 0; i < (n == 5 ? n : 10); ++i) {
        const int64_t to = permutation(i);
        ++hits[static_cast<size_t>(i * n + to)];
        if (i > 0) ascents += to > last;
        last = to;
      }
    }
    // Chi-squared of the first position: n - 1 degrees of freedom, so mean n - 1, deviation
    // sqrt(2 (n - 1)); six deviations pass but once in 10^8 runs of a fair permutation.
    double chi = 0;
    const double expected = static_cast<double>(kTrials) / static_cast<double>(n);
    for (int64_t to = 0; to < n; ++to) {
      const double d = hits[static_cast<size_t>(to)] - expected;
      chi += d * d / expected;
    }
    EXPECT_LT(chi, static_cast<double>(n - 1) + 6 * std::sqrt(2.0 * static_cast<double>(n - 1)));
    const double pairs = static_cast<double>(kTrials) * (n == 5 ? 4 : 9);
    EXPECT_NEAR(ascents / pairs, 0.5, 6 * 0.5 / std::sqrt(pairs));
  }
}

// N samples that tell their index: token lists of random length; every seventh has nothing to
// train.
std::string numbered(int n) {
  std::string text;
  for (int i = 0; i < n; ++i) {
    text += "{\"tokens\":[" + std::to_string(i % 256);
    for (int t = 0; t < (i * 37) % 50; ++t) text += "," + std::to_string((i + t) % 250);
    text += ",1],\"trained\":[0";
    for (int t = 0; t < (i * 37) % 50; ++t) text += i % 7 != 3 && t % 3 ? ",1" : ",0";
    text += i % 7 == 3 ? ",0]}\n" : ",1]}\n";
  }
  return text;
}

bool same(const StepSamples& a, const StepSamples& b) {
  if (a.samples.size() != b.samples.size() || a.left_out != b.left_out || a.tokens != b.tokens ||
      a.trained_tokens != b.trained_tokens)
    return false;
  for (size_t i = 0; i < a.samples.size(); ++i)
    if (a.samples[i].index != b.samples[i].index || a.samples[i].tokens != b.samples[i].tokens ||
        a.samples[i].trained != b.samples[i].trained || a.samples[i].key != b.samples[i].key)
      return false;
  return true;
}

DatasetOptions quiet() {
  DatasetOptions options;
  options.warn = [](const std::string&) {};
  return options;
}

TEST(Loader, StepsAreTheOrderCutIntoBatches) {
  TempFolder folder;
  const auto set = open_files({folder.write("a.jsonl", numbered(103))}, quiet());
  for (const bool shuffle : {false, true}) {
    Loader loader(set, {.batch_size = 10, .shuffle = shuffle, .seed = 5});
    EXPECT_EQ(loader.steps_per_epoch(), 11);
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::multiset<int64_t> seen;
      for (int64_t s = 0; s < 11; ++s) {
        const StepSamples step = loader.step(epoch, s);
        EXPECT_EQ(static_cast<int64_t>(step.samples.size()) + step.left_out, s == 10 ? 3 : 10);
        size_t at = 0;
        int64_t tokens = 0, trained = 0;
        for (int64_t i = s * 10; i < std::min<int64_t>(s * 10 + 10, 103); ++i) {
          const int64_t index = shuffle ? Permutation(103, 5, epoch)(i) : i;
          seen.insert(index);
          const Sample direct = set->get(index);
          if (direct.trained_count == 0) continue;
          ASSERT_LT(at, step.samples.size());
          EXPECT_EQ(step.samples[at].index, index);
          EXPECT_EQ(step.samples[at].tokens, direct.tokens);
          tokens += direct.size();
          trained += direct.trained_count;
          ++at;
        }
        EXPECT_EQ(at, step.samples.size());
        EXPECT_EQ(step.tokens, tokens);
        EXPECT_EQ(step.trained_tokens, trained);
      }
      EXPECT_EQ(seen.size(), 103u);
      EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), 103u);
    }
  }
  EXPECT_EQ(set->untrainable_seen(), 15);
}

TEST(Loader, AnyPositionAnyThreadsAnyBudget) {
  TempFolder folder;
  const auto set = open_files({folder.write("a.jsonl", numbered(200))}, quiet());
  std::vector<StepSamples> reference;
  {
    Loader loader(set, {.batch_size = 8, .seed = 1, .threads = 1});
    for (int64_t p = 0; p < 50; ++p) reference.push_back(loader.step(p / 25, p % 25));
  }
  for (const int threads : {1, 3}) {
    for (const int64_t budget : {1, 3000, 1 << 24}) {
      Loader loader(set, {.batch_size = 8, .seed = 1, .threads = threads, .budget_bytes = budget});
      for (const int64_t p : {7, 8, 9, 30, 12, 0, 1, 1, 49, 3, 4, 26, 27, 28})
        EXPECT_TRUE(same(loader.step(p / 25, p % 25), reference[static_cast<size_t>(p)])) << p;
    }
  }
  {
    Loader loader(set, {.batch_size = 8, .seed = 1});
    loader.start(1, 3);
    loader.start(0, 24);
    for (const int64_t p : {24, 25, 2})
      EXPECT_TRUE(same(loader.step(p / 25, p % 25), reference[static_cast<size_t>(p)])) << p;
  }
  Loader other(set, {.batch_size = 8, .seed = 2});
  EXPECT_FALSE(same(other.step(0, 0), reference[0]));
}

TEST(Loader, HoldsNoMoreThanTheBudget) {
  TempFolder folder;
  const auto set = open_files({folder.write("a.jsonl", numbered(2000))}, quiet());
  constexpr int64_t kBudget = 20000;
  Loader loader(set, {.batch_size = 4, .threads = 2, .budget_bytes = kBudget});
  for (int64_t s = 0; s < 400; ++s) loader.step(0, s);
  // Over by what both threads were preparing when it was reached, and the step's own samples.
  const int64_t largest = static_cast<int64_t>(sizeof(Sample)) + 60 * 5;
  EXPECT_LE(loader.stats().peak_bytes, kBudget + 6 * largest);
  EXPECT_GT(loader.stats().peak_bytes, kBudget / 4);
}

TEST(Loader, NothingIsPreparedBeyondTheLastEpoch) {
  TempFolder folder;
  const auto set = open_files({folder.write("a.jsonl", numbered(50))}, quiet());
  Loader loader(set, {.batch_size = 7, .num_epochs = 2});
  for (int64_t p = 0; p < 16; ++p) loader.step(p / 8, p % 8);
  EXPECT_EQ(loader.stats().tokenized, 100);
}

TEST(Loader, BadSampleIsToldWhenItsStepComes) {
  TempFolder folder;
  auto options = quiet();
  options.check_bytes = 0;
  const auto set = open_files(
      {folder.write("a.jsonl", numbered(20) + "{\"tokens\":\"x\"}\n" + numbered(20))}, options);
  Loader loader(set, {.batch_size = 5, .shuffle = false, .threads = 2});
  for (int64_t s = 0; s < 4; ++s) loader.step(0, s);
  for (int again = 0; again < 2; ++again)
    EXPECT_HAS(message_of<UserError>([&] { loader.step(0, 4); }), "a.jsonl:21:");
  EXPECT_EQ(loader.step(0, 5).samples.size() + static_cast<size_t>(loader.step(0, 5).left_out), 5u);
}

TEST(Loader, OneWarningForSamplesLeftOut) {
  TempFolder folder;
  std::vector<std::string> warnings;
  DatasetOptions options;
  options.warn = [&](const std::string& w) { warnings.push_back(w); };
  const auto set = open_files({folder.write("a.jsonl", numbered(70))}, options);
  {
    Loader loader(set, {.batch_size = 10});
    for (int64_t p = 0; p < 14; ++p) {
      loader.step(p / 7, p % 7);
      EXPECT_EQ(warnings.size(), p < 6 ? 0u : 1u);
    }
  }
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_HAS(warnings[0], "10 of 70 samples");
  EXPECT_HAS(warnings[0], "a.jsonl:4)");
}

TEST(TokenCache, LaterRunsAndEpochsDontTokenise) {
  TempFolder folder;
  const auto set = open_files({folder.write("a.jsonl", numbered(100))}, quiet());
  const std::string cache = folder / "cache/deep";
  std::vector<StepSamples> first;
  {
    // One thread: of several, one may come to a sample again before another has finished it.
    Loader loader(set, {.batch_size = 9, .num_epochs = 2, .threads = 1, .cache_folder = cache});
    for (int64_t p = 0; p < 24; ++p) first.push_back(loader.step(p / 12, p % 12));
    EXPECT_EQ(loader.stats().tokenized, 100);
    EXPECT_EQ(loader.stats().from_cache, 100);
  }
  {
    Loader loader(set, {.batch_size = 9, .num_epochs = 2, .cache_folder = cache});
    for (int64_t p = 0; p < 24; ++p)
      EXPECT_TRUE(same(loader.step(p / 12, p % 12), first[static_cast<size_t>(p)]));
    EXPECT_EQ(loader.stats().tokenized, 0);
  }
  // Other options: another file.
  auto options = quiet();
  options.max_length = 10;
  const auto other = open_files({folder / "a.jsonl"}, options);
  Loader loader(other, {.batch_size = 9, .num_epochs = 1, .cache_folder = cache});
  loader.step(0, 0);
  EXPECT_EQ(loader.stats().from_cache, 0);
}

TEST(TokenCache, KeepsSequences) {
  TempFolder folder;
  const auto path = folder.write("a.jsonl",
                                 "{\"tokens\":[65,66,67,68,69],\"sequences\":[2,3]}\n{\"tokens\":["
                                 "65,66],\"trained\":[0,1]}\n");
  const auto set = open_files({path}, quiet());
  TokenCache cache(folder / "c", 1, 2, [](const std::string&) {});
  for (int64_t i = 0; i < 2; ++i) cache.add(set->get(i));
  Sample sample;
  ASSERT_TRUE(cache.find(0, sample));
  EXPECT_EQ(sample.lengths, (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(sample.trained, (std::vector<uint8_t>{0, 1, 0, 1, 1}));
  ASSERT_TRUE(cache.find(1, sample));
  EXPECT_TRUE(sample.lengths.empty());
}

// A file cut anywhere, or with any byte changed, never gives wrong samples, and goes on being used.
TEST(TokenCache, DamageIsAMissNotAWrongSample) {
  TempFolder folder;
  const auto set = open_files({folder.write("a.jsonl", numbered(20))}, quiet());
  const auto warn = [](const std::string&) {};
  std::string path;
  {
    TokenCache cache(folder / "c", 1, 20, warn);
    for (int64_t i = 0; i < 20; ++i) cache.add(set->get(i));
    path = cache.path();
  }
  std::ifstream in(path, std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  ASSERT_GT(good.size(), 1000u);
  std::mt19937_64 random(3);
  int64_t found = 0;
  for (int trial = 0; trial < 600; ++trial) {
    std::string bad = good;
    const size_t at = random() % bad.size();
    if (trial % 2) {
      bad.resize(at);
    } else {
      bad[at] = static_cast<char>(bad[at] ^ (1 << random() % 8));
    }
    std::ofstream(path, std::ios::binary) << bad;
    const auto check = [&](const TokenCache& cache) {
      int64_t hits = 0;
      for (int64_t i = 0; i < 20; ++i) {
        Sample sample;
        if (!cache.find(i, sample)) continue;
        const Sample direct = set->get(i);
        EXPECT_EQ(sample.tokens, direct.tokens);
        EXPECT_EQ(sample.trained, direct.trained);
        EXPECT_EQ(sample.trained_count, direct.trained_count);
        ++hits;
      }
      return hits;
    };
    {
      TokenCache cache(folder / "c", 1, 20, warn);
      found += check(cache);
      for (int64_t i = 0; i < 20; ++i) cache.add(set->get(i));
      EXPECT_EQ(check(cache), 20);
    }
    EXPECT_EQ(check(TokenCache(folder / "c", 1, 20, warn)), 20);
  }
  EXPECT_GT(found, 600 * 5);  // damage costs what was damaged and, in a header, what follows
}

TEST(TokenCache, UnwritableFolderIsOneWarning) {
  TempFolder folder;
  const auto set = open_files({folder.write("a.jsonl", numbered(30))}, quiet());
  std::vector<std::string> warnings;
  // A file where the folder should be.
  TokenCache cache(folder / "a.jsonl", 1, 30, [&](const std::string& w) { warnings.push_back(w); });
  for (int64_t i = 0; i < 30; ++i) cache.add(set->get(i));
  cache.flush();
  Sample sample;
  EXPECT_FALSE(cache.find(0, sample));
  EXPECT_EQ(warnings.size(), 1u);
}

TEST(TokenCache, OneWriterAtATime) {
  TempFolder folder;
  const auto set = open_files({folder.write("a.jsonl", numbered(30))}, quiet());
  const auto warn = [](const std::string& w) { ADD_FAILURE() << w; };
  TokenCache first(folder / "c", 1, 30, warn);
  for (int64_t i = 0; i < 10; ++i) first.add(set->get(i));
  first.flush();
  TokenCache second(folder / "c", 1, 30, warn);
  EXPECT_EQ(second.size(), 10);
  for (int64_t i = 10; i < 30; ++i) second.add(set->get(i));
  second.flush();
  Sample sample;
  EXPECT_TRUE(second.find(5, sample));
  EXPECT_FALSE(second.find(15, sample));
}

}  // namespace
}  // namespace hone::data
