// Log-probs of a reference policy: the base model behind a new adapter, or what was loaded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/packing.h"
#include "train/options.h"
#include "train/pass.h"

namespace hone::train {

// Where a pass finds them.
enum class ReferenceKind {
  none,         // not needed
  adapter_off,  // the same weights without the adapter, a forward pass beside each step's
  kept,         // computed before the first step: 4 bytes a trained token in memory
};

// A column `reference` for each of the samples of the micro-batches: by the model of ctx as it is,
// with or without its adapter.
std::vector<SampleColumns> reference_columns(Context& ctx, const models::Decoder& decoder,
                                             std::span<const data::Sample> samples,
                                             std::span<const data::MicroBatch> micro_batches,
                                             bool adapters);

// Those of a data set's samples, by their index.
class KeptReference {
 public:
  void add(std::span<const data::Sample> samples, std::span<const SampleColumns> columns);
  bool has(int64_t index) const;
  std::vector<SampleColumns> columns(std::span<const data::Sample> samples) const;

 private:
  std::vector<std::vector<float>> trained_;  // log-probs of trained tokens
};

// For plans: kept log-probs of samples, whose indices are set, all 0.
KeptReference empty_reference(std::vector<data::Sample>& samples);

// How a trainer with these options finds its reference. UserError for --reference base where there
// is no adapter.
ReferenceKind reference_kind(const TrainerOptions& o, Reference reference, load::Model& model);

// Bytes of the log-probs kept of these data sets, estimated from their files: a token has about
// four bytes of text.
size_t kept_bytes(const DataOptions& o);

// Keeps the log-probs, by the model as it is, of some samples of a data set.
void keep_reference(Context& ctx, const models::Decoder& decoder, const data::Dataset& dataset,
                    std::span<const int64_t> indices, int64_t micro_batch_tokens,
                    KeptReference& kept);

}  // namespace hone::train
