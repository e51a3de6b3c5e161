#include "train/reference.h"

namespace hone::train {

std::vector<SampleColumns> reference_columns(Context& ctx, const models::Decoder& decoder,
                                             std::span<const data::Sample> samples,
                                             std::span<const data::MicroBatch> micro_batches,
                                             bool adapters) {
  std::vector<SampleColumns> columns(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) columns[i].reference.resize(samples[i].tokens.size());
  Context c = ctx;
  c.adapters = adapters;
  for (const data::MicroBatch& mb : micro_batches) {
    const std::vector<double> logprob = score(c, decoder, mb);
    for (size_t row = 0; row < logprob.size(); ++row) {
      const auto sample =
          static_cast<size_t>(mb.samples[static_cast<size_t>(mb.row_segments[row])]);
      columns[sample].reference[static_cast<size_t>(mb.row_positions[row])] = logprob[row];
    }
  }
  return columns;
}

void KeptReference::add(std::span<const data::Sample> samples,
                        std::span<const SampleColumns> columns) {
  for (size_t i = 0; i < samples.size(); ++i) {
    const data::Sample& s = samples[i];
    if (s.index >= static_cast<int64_t>(trained_.size()))
      trained_.resize(static_cast<size_t>(s.index + 1));
    std::vector<float>& kept = trained_[static_cast<size_t>(s.index)];
    kept.clear();
    kept.reserve(static_cast<size_t>(s.trained_count));
    for (size_t t = 0; t < s.tokens.size(); ++t)
      if (s.trained[t]) kept.push_back(static_cast<float>(columns[i].reference[t]));
  }
}

bool KeptReference::has(int64_t index) const {
  return index < static_cast<int64_t>(trained_.size()) &&
         !trained_[static_cast<size_t>(index)].empty();
}

std::vector<SampleColumns> KeptReference::columns(std::span<const data::Sample> samples) const {
  std::vector<SampleColumns> out(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    const data::Sample& s = samples[i];
    HONE_CHECK(has(s.index));
    const std::vector<float>& kept = trained_[static_cast<size_t>(s.index)];
    out[i].reference.resize(s.tokens.size());
    size_t next = 0;
    for (size_t t = 0; t < s.tokens.size(); ++t)
      if (s.trained[t]) out[i].reference[t] = kept.at(next++);
  }
  return out;
}

}  // namespace hone::train
