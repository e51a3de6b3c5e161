// A loss over pairs (loss/preference.h) as an objective of training.
#pragma once

#include "loss/batch.h"
#include "loss/objective.h"

namespace hone::loss {

// A sample is a pair: two sequences, the chosen one first, each with a labelled token at least.
class PairObjective final : public Objective {
 public:
  struct Options {
    Loss loss;
    bool reference = true;      // the loss needs reference log-probs
    bool whole_step = false;    // it compares pairs with each other
    int64_t pairs = 0;          // of the whole step ...
    int64_t chosen_tokens = 0;  // ... and the labelled tokens of its chosen sides
  };
  explicit PairObjective(Options options) : o_(std::move(options)) {}

  Coupling coupling() const override { return o_.whole_step ? Coupling::step : Coupling::unit; }
  ObjectiveResult evaluate(const ObjectiveInput& input) const override;

 private:
  Options o_;
};

}  // namespace hone::loss
