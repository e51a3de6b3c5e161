// The best evaluation of a run so far: what --keep_best and --early_stopping go by.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>

namespace hone::train {

class BestEval {
 public:
  // True if the loss is lower than every one before. A loss that is no number is none.
  bool add(int64_t step, double loss) {
    if (loss < loss_) {
      loss_ = loss;
      step_ = step;
      since_ = 0;
      return true;
    }
    ++since_;
    return false;
  }
  bool known() const { return step_ > 0; }
  int64_t step() const { return step_; }  // 0: there is none
  double loss() const { return loss_; }
  int64_t since() const { return since_; }  // evaluations after the best one

  nlohmann::json state() const;
  // Of state(); anything else leaves it as it is.
  void restore(const nlohmann::json& state);

 private:
  int64_t step_ = 0;
  double loss_ = std::numeric_limits<double>::infinity();
  int64_t since_ = 0;
};

}  // namespace hone::train
