#include "data/packing.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>

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

struct Piece {
  size_t sample = 0;
  Sequence sequence;
};

// What is put into a micro-batch together: a unit, a sample, or where that is longer than the
// budget, one of its sequences.
struct Item {
  std::vector<Piece> pieces;
  int64_t computed = 0;

  void add(size_t sample, const Sequence& s) {
    pieces.push_back({sample, s});
    computed += s.computed;
  }
};

std::vector<Item> items_of(std::span<const Sample> samples, const PackOptions& options) {
  std::vector<Item> items;
  for (size_t i = 0; i < samples.size(); ++i) {
    const std::vector<Sequence> sequences = sequences_of(samples[i], options.targets);
    Item whole;
    for (const Sequence& s : sequences) whole.add(i, s);
    if (whole.computed == 0) continue;
    if (whole.computed <= options.token_budget || sequences.size() == 1) {
      items.push_back(std::move(whole));
      continue;
    }
    for (const Sequence& s : sequences) items.emplace_back().add(i, s);
  }
  return items;
}

// In the order of their first samples.
std::vector<Item> units_of(std::span<const Sample> samples, const PackOptions& options) {
  HONE_CHECK(options.units.size() == samples.size());
  std::vector<Item> items;
  std::unordered_map<int64_t, size_t> item_of;
  for (size_t i = 0; i < samples.size(); ++i) {
    for (const Sequence& s : sequences_of(samples[i], options.targets)) {
      const auto [it, added] = item_of.try_emplace(options.units[i], items.size());
      if (added) items.emplace_back();
      items[it->second].add(i, s);
    }
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
  const std::vector<Item> items =
      options.units.empty() ? items_of(samples, options) : units_of(samples, options);
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
      for (const Piece& p : items[i].pieces)
        append(batch, samples[p.sample], p.sample, p.sequence, options.targets);
    }
  }
  return out;
}

MicroBatch full_micro_batch(int64_t tokens, int64_t length) {
  MicroBatch mb;
  int64_t left = tokens;
  while (left > 0) {
    const int64_t n = std::min(left, length);
    const auto segment = static_cast<int32_t>(mb.stream.segments.size());
    const int32_t begin = static_cast<int32_t>(mb.stream.size());
    mb.stream.append(std::vector<int32_t>(static_cast<size_t>(n), 0),
                     static_cast<uint64_t>(segment));
    mb.samples.push_back(segment);
    for (int64_t i = 0; i < n; ++i) {
      mb.rows.push_back(begin + static_cast<int32_t>(i));
      mb.targets.push_back(0);
      mb.row_segments.push_back(segment);
      mb.row_positions.push_back(i + 1);
    }
    left -= n;
  }
  mb.tokens = tokens;
  return mb;
}

}  // namespace hone::data
