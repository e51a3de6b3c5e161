// Objectives: functions of what the head returns for labelled tokens. They give a scalar, the
// adjoint dL/dlogprob and named metrics, and have no access to the model. Loss is normalised by the
// count of the whole optimizer step, so it does not change with micro-batches or packing.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace hone::loss {

// How samples are coupled. token: any split of a step is fine. unit: a pair or a group must be seen
// together. step: all log-probs of a step are needed before any adjoint.
enum class Coupling { token, unit, step };

// Labelled tokens of one sample in the arrays of an ObjectiveInput.
struct SampleRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t sample = 0;  // position in the step
};

struct ObjectiveInput {
  std::span<const SampleRange> samples;
  std::span<const double> logprob;  // of the labelled tokens
  int64_t step_tokens =
      0;  // labelled tokens of the whole optimizer step, over all micro-batches and ranks
};

struct ObjectiveResult {
  double loss = 0;              // this part's share of the step's loss: shares add up
  std::vector<float> dlogprob;  // dL/dlogprob, as many as logprob
  std::vector<std::pair<std::string, double>> metrics;
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual Coupling coupling() const = 0;
  // dL/dlogprob where it does not depend on the log-probs (input.logprob is empty then): the head
  // makes its gradient in the forward pass.
  virtual std::optional<std::vector<float>> known_adjoint(const ObjectiveInput& input,
                                                          int64_t tokens) const {
    (void)input;
    (void)tokens;
    return std::nullopt;
  }
  virtual ObjectiveResult evaluate(const ObjectiveInput& input) const = 0;
};

// Mean cross-entropy over the step's labelled tokens.
class SftObjective final : public Objective {
 public:
  Coupling coupling() const override { return Coupling::token; }
  std::optional<std::vector<float>> known_adjoint(const ObjectiveInput& input,
                                                  int64_t tokens) const override;
  ObjectiveResult evaluate(const ObjectiveInput& input) const override;
};

}  // namespace hone::loss
