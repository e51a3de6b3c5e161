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

// Labelled tokens of one sequence of a sample in the arrays of an ObjectiveInput. A sample of
// several sequences has several ranges.
struct SampleRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t sample = 0;  // position in the step
};

// token: some of the step's tokens. unit: whole units. step: all of the step.
struct ObjectiveInput {
  std::span<const SampleRange> samples;
  std::span<const double> logprob;  // of the labelled tokens
  // What is known of each labelled token beside it: as many as there are tokens, or empty where the
  // step hasn't got the column.
  std::span<const double> reference;  // log-prob under the reference policy
  std::span<const double> old;        // log-prob under the policy that drew the token
  std::span<const double> advantage;
  std::span<const double> value;
  int64_t step_tokens =
      0;  // labelled tokens of the whole optimizer step, over all micro-batches and ranks
};

// Named numbers in the order in which they are shown.
using Metrics = std::vector<std::pair<std::string, double>>;

struct ObjectiveResult {
  double loss = 0;               // this part's share of the step's loss: shares add up
  std::vector<double> dlogprob;  // dL/dlogprob, as many as logprob
  Metrics metrics;               // shares, too
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual Coupling coupling() const = 0;
  // dL/dlogprob where it does not depend on the log-probs (input.logprob is empty then): the head
  // makes its gradient in the forward pass. Token coupling only.
  virtual std::optional<std::vector<double>> known_adjoint(const ObjectiveInput& input,
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
  std::optional<std::vector<double>> known_adjoint(const ObjectiveInput& input,
                                                   int64_t tokens) const override;
  ObjectiveResult evaluate(const ObjectiveInput& input) const override;
};

}  // namespace hone::loss
