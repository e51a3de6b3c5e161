#include "train/best_eval.h"

#include <nlohmann/json.hpp>

namespace hone::train {

nlohmann::json BestEval::state() const {
  if (!known()) return {{"since", since_}};
  return {{"step", step_}, {"loss", loss_}, {"since", since_}};
}

void BestEval::restore(const nlohmann::json& state) {
  if (!state.is_object()) return;
  const auto number = [&](const char* name) {
    const auto it = state.find(name);
    return it != state.end() && it->is_number() ? &*it : nullptr;
  };
  if (const auto* since = number("since")) since_ = since->get<int64_t>();
  if (!number("step") || !number("loss")) return;
  step_ = number("step")->get<int64_t>();
  loss_ = number("loss")->get<double>();
}

}  // namespace hone::train
