// A file of a million lines: indexed fast, in memory that doesn't follow its size, and read at
// random while training would go on.
#include <chrono>
#include <cstdio>

#include "data/loader.h"
#include "data_test_util.h"

namespace hone::data {
namespace {

using data_test::TempFolder;

// kB of a field of /proc/self/status.
int64_t status_kb(const std::string& field) {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line))
    if (line.starts_with(field + ":")) return std::stoll(line.substr(field.size() + 1));
  return -1;
}

void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

TEST(Memory, MillionLines) {
  constexpr int64_t kLines = 1000000;
  TempFolder folder;
  const std::string path = folder / "million.jsonl";
  int64_t bytes = 0;
  {
    std::ofstream file(path, std::ios::binary);
    const std::string question(120, 'q'), answer(250, 'a');
    for (int64_t i = 0; i < kLines; ++i) {
      const std::string line = "[{\"role\":\"user\",\"content\":\"" + std::to_string(i) + question +
                               "\"},{\"role\":\"assistant\",\"content\":\"" + answer + "\"}]\n";
      file << line;
      bytes += static_cast<int64_t>(line.size());
    }
  }
  const TextModel model = data_test::byte_text_model();
  const int64_t before = status_kb("VmRSS");
  reset_peak();
  const auto start = std::chrono::steady_clock::now();
  const auto set = Dataset::open(model, {.paths = {path}});
  set->require_trainable();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const int64_t indexed = status_kb("VmHWM") - before;
  std::printf("%lld MB in %lld lines: indexed in %.2f s, %lld KiB more at the peak\n",
              static_cast<long long>(bytes / 1000000), static_cast<long long>(set->size()), seconds,
              static_cast<long long>(indexed));
  ASSERT_EQ(set->size(), kLines);
  EXPECT_LE(set->memory_bytes(), kLines * 12 + kLines / 8 + (1 << 20));
  // The index (12 bytes a line) and one buffer; seen: 15 MiB.
  EXPECT_LT(indexed, 20 << 10);

  // Random order, with the cache being written: the look-ahead's budget on top.
  Loader loader(set, {.batch_size = 16,
                      .seed = 3,
                      .threads = 2,
                      .budget_bytes = 8 << 20,
                      .cache_folder = folder / "cache"});
  int64_t samples = 0;
  for (int64_t s = 0; s < 2000; ++s)
    samples += static_cast<int64_t>(loader.step(0, s).samples.size());
  EXPECT_EQ(samples, 2000 * 16);
  const int64_t peak = status_kb("VmHWM") - before;
  std::printf("after %lld samples in random order: %lld KiB more at the peak\n",
              static_cast<long long>(samples), static_cast<long long>(peak));
  // Index 12 MB, cache offsets 8 MB, budget 8 MiB, working memory of three threads; seen: 38 MiB.
  EXPECT_LT(peak, 64 << 10);
}

}  // namespace
}  // namespace hone::data
