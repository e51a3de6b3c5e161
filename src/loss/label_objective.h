// A loss over labelled answers (KTO) as an objective of training.
#pragma once

#include <optional>
#include <vector>

#include "loss/batch.h"
#include "loss/objective.h"

namespace hone::loss {

// A sample is one answer, with a labelled token at least.
class LabelObjective final : public Objective {
 public:
  struct Options {
    Loss loss;
    std::vector<uint8_t> desirable;  // of each sample of the step
    std::optional<double> kl;        // of the step
  };
  explicit LabelObjective(Options options);

  Coupling coupling() const override { return Coupling::unit; }
  ObjectiveResult evaluate(const ObjectiveInput& input) const override;

 private:
  Options o_;
  std::size_t desirable_ = 0;
};

}  // namespace hone::loss
