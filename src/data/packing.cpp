#include "data/packing.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace hone::data {

namespace {

// A sequence of a sample: [begin, begin + size) of its tokens, the first `computed` of them in the
// stream.
struct Sequence {
  int64_t index = 0;  // among the sample's
  int64_t begin = 0, size = 0, computed = 0;
};

int64_t computed_of(const Sample& sample, int64_t begin, int64_t size, Targets targets) {
  if (targets == Targets::kAll) return std::max<int64_t>(size - 1, 0);
  for (int64_t t = size - 1; t > 0; --t)
    if (sample.trained[static_cast<size_t>(begin + t)]) return t;
  return 0;
}

std::vector<Sequence> sequences_of(const Sample& sample, Targets targets) {
  std::vector<Sequence> out;
  int64_t begin = 0;
  for (int64_t i = 0; i < sample.sequences(); ++i) {
    const int64_t size =
        sample.lengths.empty() ? sample.size() : sample.lengths[static_cast<size_t>(i)];
    const int64_t computed = computed_of(sample, begin, size, targets);
    if (computed > 0) out.push_back({i, begin, size, computed});
    begin += size;
  }
  return out;
}

// What is put into a micro-batch together: a sample, or where that is longer than the budget, one
// of its sequences.
struct Item {
  size_t sample = 0;
  std::vector<Sequence> sequences;
  int64_t computed = 0;
};

std::vector<Item> items_of(std::span<const Sample> samples, const PackOptions& options) {
  std::vector<Item> items;
  for (size_t i = 0; i < samples.size(); ++i) {
    Item whole{.sample = i, .sequences = sequences_of(samples[i], options.targets)};
    for (const Sequence& s : whole.sequences) whole.computed += s.computed;
    if (whole.computed == 0) continue;
    if (whole.computed <= options.token_budget || whole.sequences.size() == 1) {
      items.push_back(std::move(whole));
      continue;
    }
    for (const Sequence& s : whole.sequences)
      items.push_back({.sample = i, .sequences = {s}, .computed = s.computed});
  }
  return items;
}

// Names a sequence's random numbers: the sample's key for the first.
uint64_t key_of(const Sample& sample, int64_t sequence) {
  return sample.key | static_cast<uint64_t>(sequence) << 40;
}

void append(MicroBatch& batch, const Sample& sample, size_t position, const Sequence& s,
            Targets targets) {
  const auto begin = static_cast<int32_t>(batch.stream.size());
  const auto segment = static_cast<int32_t>(batch.stream.segments.size());
  const auto first = sample.tokens.begin() + s.begin;
  batch.stream.append({first, first + s.computed}, key_of(sample, s.index));
  for (int64_t t = 1; t <= s.computed; ++t) {
    const auto at = static_cast<size_t>(s.begin + t);
    if (targets == Targets::kTrained && !sample.trained[at]) continue;
    batch.rows.push_back(begin + static_cast<int32_t>(t) - 1);
    batch.targets.push_back(sample.tokens[at]);
    batch.row_segments.push_back(segment);
    batch.row_positions.push_back(s.begin + t);
  }
  batch.samples.push_back(static_cast<int64_t>(position));
  batch.tokens += s.size;
}

}  // namespace

int64_t computed_tokens(const Sample& sample, Targets targets) {
  int64_t n = 0;
  for (const Sequence& s : sequences_of(sample, targets)) n += s.computed;
  return n;
}

std::vector<MicroBatch> pack(std::span<const Sample> samples, const PackOptions& options) {
  HONE_CHECK(options.token_budget > 0);
  const std::vector<Item> items = items_of(samples, options);
  std::vector<size_t> by_length(items.size());
  std::iota(by_length.begin(), by_length.end(), size_t{0});
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](size_t a, size_t b) { return items[a].computed > items[b].computed; });

  std::vector<std::vector<size_t>> bins;
  std::vector<int64_t> room;
  for (const size_t i : by_length) {
    const int64_t length = items[i].computed;
    const auto fit =
        std::find_if(room.begin(), room.end(), [&](int64_t left) { return left >= length; });
    if (fit == room.end()) {
      bins.push_back({i});
      room.push_back(options.token_budget - length);  // below 0: nothing joins it
    } else {
      bins[static_cast<size_t>(fit - room.begin())].push_back(i);
      *fit -= length;
    }
  }
  for (auto& bin : bins) std::sort(bin.begin(), bin.end());
  std::sort(bins.begin(), bins.end());

  std::vector<MicroBatch> out;
  out.reserve(bins.size());
  for (const auto& bin : bins) {
    MicroBatch& batch = out.emplace_back();
    int64_t total = 0;
    for (const size_t i : bin) total += items[i].computed;
    HONE_CHECK(total <= INT32_MAX);
    batch.stream.tokens.reserve(static_cast<size_t>(total));
    batch.stream.positions.reserve(static_cast<size_t>(total));
    for (const size_t i : bin) {
      for (const Sequence& s : items[i].sequences)
        append(batch, samples[items[i].sample], items[i].sample, s, options.targets);
    }
  }
  return out;
}

}  // namespace hone::data
