// One optimizer step's forward and backward passes over packed micro-batches, for any objective.
#pragma once

#include <span>

#include "data/packing.h"
#include "io/loaded_model.h"
#include "loss/objective.h"

namespace hone::train {

struct StepResult {
  double loss = 0;
  std::vector<std::pair<std::string, double>> metrics;
};

// Adds the gradients of the step's loss to the store's. ctx.step names the random numbers.
// step_tokens: labelled tokens of the whole step. Objectives with token coupling.
StepResult forward_backward(Context& ctx, const models::Decoder& decoder,
                            const loss::Objective& objective,
                            std::span<const data::MicroBatch> micro_batches, int64_t step_tokens);

// The step's loss alone, no gradients.
StepResult forward_only(Context& ctx, const models::Decoder& decoder,
                        const loss::Objective& objective,
                        std::span<const data::MicroBatch> micro_batches, int64_t step_tokens);

// Log-probs of the micro-batch's targets, in the order of its rows.
std::vector<double> score(Context& ctx, const models::Decoder& decoder,
                          const data::MicroBatch& micro_batch);

void zero_gradients(Context& ctx);

}  // namespace hone::train
