// From the samples of a step to packed streams. Whole samples share a stream, each sequence a
// segment that attends to itself alone; nothing is padded.
//
// What is computed: the outputs at position t serve the target t+1. Positions at and after the last
// target of a sequence serve no target, so they are left out of the stream: a sequence is cut to
// [0, last target). So a stream has at least one token less a sequence than the sample ("tokens").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/dataset.h"
#include "exec/stream.h"

namespace hone::data {

enum class Targets {
  kTrained,  // the trained tokens
  kAll,      // every token but the first (scoring)
};

struct MicroBatch {
  Stream stream;
  // Row i: the output at stream position rows[i] predicts token targets[i]. Ascending.
  std::vector<int32_t> rows;
  std::vector<int32_t> targets;
  std::vector<int32_t> row_segments;   // segment of each row
  std::vector<int64_t> row_positions;  // index of each target in its sample
  std::vector<int64_t> samples;        // of each segment: its position in the span given to pack()
  int64_t tokens = 0;  // of the samples, whole, after max_length; at least stream.size()

  int64_t computed() const { return stream.size(); }
};

struct PackOptions {
  int64_t token_budget = 4096;  // computed tokens a micro-batch
  Targets targets = Targets::kTrained;
  // Of each sample; samples of equal number (a pair, a group) go into one micro-batch, whatever
  // its size; units are in the order of their first samples. Empty: each sample for itself.
  std::span<const int64_t> units = {};
};

// Tokens of the sample that have to be computed; 0 if it has no target.
int64_t computed_tokens(const Sample& sample, Targets targets);

// Every sequence with a target exactly once, whole, in one of the micro-batches; those without are
// left out. A sample's sequences stay together where the budget has room for them. A micro-batch is
// within the budget unless it is one single sequence or unit that is longer. First
// fit by falling length (Johnson, "Near-optimal bin packing algorithms", 1973), ties in the order
// given; then segments, and micro-batches by their first segment, are put in the order given. A
// function of its arguments alone.
std::vector<MicroBatch> pack(std::span<const Sample> samples, const PackOptions& options);

// A micro-batch of so many computed tokens of no meaning in sequences of at most `length`, every
// one of them labelled: the most work there can be, for plans.
MicroBatch full_micro_batch(int64_t tokens, int64_t length);

}  // namespace hone::data
