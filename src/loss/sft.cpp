#include "core/error.h"
#include "loss/objective.h"

namespace hone::loss {

std::optional<std::vector<double>> SftObjective::known_adjoint(const ObjectiveInput& input,
                                                               int64_t tokens) const {
  return std::vector<double>(static_cast<size_t>(tokens),
                             -1.0 / static_cast<double>(input.step_tokens));
}

ObjectiveResult SftObjective::evaluate(const ObjectiveInput& input) const {
  HONE_CHECK(input.step_tokens > 0);
  ObjectiveResult r;
  double sum = 0;
  for (const double lp : input.logprob) sum -= lp;
  r.loss = sum / static_cast<double>(input.step_tokens);
  r.dlogprob = *known_adjoint(input, static_cast<int64_t>(input.logprob.size()));
  return r;
}

}  // namespace hone::loss
