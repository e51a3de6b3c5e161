#include "train/reference.h"

#include <filesystem>

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

KeptReference empty_reference(std::vector<data::Sample>& samples) {
  KeptReference kept;
  std::vector<SampleColumns> nothing(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    samples[i].index = static_cast<int64_t>(i);
    nothing[i].reference.resize(samples[i].tokens.size());
  }
  kept.add(samples, nothing);
  return kept;
}

ReferenceKind reference_kind(const TrainerOptions& o, Reference reference, load::Model& model) {
  const bool adapter = model.adapter_config().has_value();
  if (reference == Reference::base && !adapter)
    user_error("reference",
               "--reference base: all weights are tuned, so the base is what was loaded; leave "
               "it out, or use LoRA (--lora_rank 8)");
  const bool new_adapter = adapter && o.adapter.empty();
  return new_adapter || reference == Reference::base ? ReferenceKind::adapter_off
                                                     : ReferenceKind::kept;
}

size_t kept_bytes(const DataOptions& o) {
  size_t bytes = 0;
  for (const auto* paths : {&o.dataset, &o.eval_dataset}) {
    for (const std::string& path : *paths) {
      std::error_code error;
      const auto n = std::filesystem::file_size(path, error);
      if (!error) bytes += static_cast<size_t>(n);
    }
  }
  return bytes;
}

void keep_reference(Context& ctx, const models::Decoder& decoder, const data::Dataset& dataset,
                    std::span<const int64_t> indices, int64_t micro_batch_tokens,
                    KeptReference& kept) {
  std::vector<data::Sample> pending;
  int64_t tokens = 0;
  const auto flush = [&] {
    const auto micro_batches = data::pack(pending, {.token_budget = micro_batch_tokens});
    kept.add(pending, reference_columns(ctx, decoder, pending, micro_batches, true));
    pending.clear();
    tokens = 0;
  };
  for (const int64_t index : indices) {
    data::Sample sample = dataset.get(index);
    if (sample.trained_count == 0) continue;
    tokens += sample.size();
    pending.push_back(std::move(sample));
    if (tokens >= 4 * micro_batch_tokens) flush();
  }
  flush();
}

}  // namespace hone::train
