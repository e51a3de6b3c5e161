// One optimizer step's forward and backward passes over packed micro-batches, for any objective.
#pragma once

#include <span>
#include <vector>

#include "data/packing.h"
#include "load/model.h"
#include "loss/objective.h"

namespace hone::train {

// What an objective is given of a sample's tokens beside their log-probs: as many as the sample has
// tokens (those of labelled ones are read), or empty. All samples of a step have the same columns.
struct SampleColumns {
  std::vector<double> reference, old, advantage, value;
};

// How the adjoints of a step-coupled objective reach its micro-batches. again: a forward pass of
// all, then a forward and backward pass of each: the memory of one. keep: one forward pass, whose
// tapes wait for the adjoints: the memory of all.
enum class StepPasses { again, keep };

struct PassInput {
  std::span<const data::MicroBatch> micro_batches;
  int64_t step_tokens = 0;                      // labelled tokens of the whole step
  std::span<const SampleColumns> columns = {};  // by position in the step; empty: none
  std::span<const int64_t> units = {};          // of each sample, as packed; for unit coupling
  StepPasses passes = StepPasses::again;        // for step coupling
};

struct StepResult {
  double loss = 0;
  loss::Metrics metrics;
};

// Adds the gradients of the step's loss to the store's. ctx.step names the random numbers. With
// unit coupling each unit lies in one micro-batch (data::PackOptions::units).
StepResult forward_backward(Context& ctx, const models::Decoder& decoder,
                            const loss::Objective& objective, const PassInput& input);

// The step's loss alone, no gradients.
StepResult forward_only(Context& ctx, const models::Decoder& decoder,
                        const loss::Objective& objective, const PassInput& input);

// Either of them.
using Pass = StepResult (*)(Context&, const models::Decoder&, const loss::Objective&,
                            const PassInput&);

// Units of samples that are each on their own.
std::vector<int64_t> each_a_unit(size_t samples);

// Log-probs of the micro-batch's targets, in the order of its rows.
std::vector<double> score(Context& ctx, const models::Decoder& decoder,
                          const data::MicroBatch& micro_batch);

void zero_gradients(Context& ctx);

}  // namespace hone::train
