#include "data/packing.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace hone::data {

int64_t computed_tokens(const Sample& sample, Targets targets) {
  if (targets == Targets::kAll) return std::max<int64_t>(sample.size() - 1, 0);
  for (int64_t t = sample.size() - 1; t > 0; --t)
    if (sample.trained[static_cast<size_t>(t)]) return t;
  return 0;
}

std::vector<MicroBatch> pack(std::span<const Sample> samples, const PackOptions& options) {
  HONE_CHECK(options.token_budget > 0);
  std::vector<int64_t> length(samples.size());
  for (size_t i = 0; i < samples.size(); ++i)
    length[i] = computed_tokens(samples[i], options.targets);

  std::vector<size_t> by_length(samples.size());
  std::iota(by_length.begin(), by_length.end(), size_t{0});
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](size_t a, size_t b) { return length[a] > length[b]; });

  std::vector<std::vector<size_t>> bins;
  std::vector<int64_t> room;
  for (const size_t i : by_length) {
    if (length[i] == 0) break;
    const auto fit =
        std::find_if(room.begin(), room.end(), [&](int64_t left) { return left >= length[i]; });
    if (fit == room.end()) {
      bins.push_back({i});
      room.push_back(options.token_budget - length[i]);  // below 0: nothing joins it
    } else {
      bins[static_cast<size_t>(fit - room.begin())].push_back(i);
      *fit -= length[i];
    }
  }
  for (auto& bin : bins) std::sort(bin.begin(), bin.end());
  std::sort(bins.begin(), bins.end());

  std::vector<MicroBatch> out;
  out.reserve(bins.size());
  for (const auto& bin : bins) {
    MicroBatch& batch = out.emplace_back();
    int64_t total = 0;
    for (const size_t i : bin) total += length[i];
    HONE_CHECK(total <= INT32_MAX);
    batch.stream.tokens.reserve(static_cast<size_t>(total));
    batch.stream.positions.reserve(static_cast<size_t>(total));
    for (const size_t i : bin) {
      const Sample& sample = samples[i];
      const auto begin = static_cast<int32_t>(batch.stream.size());
      const auto segment = static_cast<int32_t>(batch.stream.segments.size());
      batch.stream.append({sample.tokens.begin(), sample.tokens.begin() + length[i]}, sample.key);
      for (int64_t t = 1; t <= length[i]; ++t) {
        if (options.targets == Targets::kTrained && !sample.trained[static_cast<size_t>(t)])
          continue;
        batch.rows.push_back(begin + static_cast<int32_t>(t) - 1);
        batch.targets.push_back(sample.tokens[static_cast<size_t>(t)]);
        batch.row_segments.push_back(segment);
        batch.row_positions.push_back(t);
      }
      batch.samples.push_back(static_cast<int64_t>(i));
      batch.tokens += sample.size();
    }
  }
  return out;
}

}  // namespace hone::data
