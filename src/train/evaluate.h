// Evaluation during a run: loss on held-out data, and answers to look at.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "load/model.h"

namespace hone::train {

// Mean cross-entropy over all trained tokens of the data set.
double evaluate_loss(Context& ctx, const models::Decoder& decoder, const data::Dataset& dataset,
                     int64_t micro_batch_tokens);

struct SampleAnswer {
  std::string prompt, answer, reference;
};
// Greedy answers to the first conversations of the data set: the prompt is what stands before a
// sample's last trained span; of a pair, before its chosen answer.
std::vector<SampleAnswer> sample_answers(Context& ctx, const models::Decoder& decoder,
                                         const data::Dataset& dataset, int64_t count,
                                         int64_t max_new_tokens,
                                         const std::vector<int32_t>& stop_ids);

}  // namespace hone::train
