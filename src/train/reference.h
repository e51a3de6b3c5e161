// Log-probs of a reference policy: the base model behind a new adapter, or what was loaded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/packing.h"
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

}  // namespace hone::train
