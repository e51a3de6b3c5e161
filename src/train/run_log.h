// What a run leaves for people: metrics.jsonl, TensorBoard events.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "io/run_folder.h"
#include "io/tensorboard.h"
#include "loss/objective.h"

namespace hone::train {

struct StepMetrics {
  int64_t step = 0;  // from 1
  double loss = 0;
  double learning_rate = 0;
  double grad_norm = 0;
  int64_t tokens = 0;
  int64_t trained_tokens = 0;
  double tokens_per_second = 0;
  size_t peak_memory = 0;
  std::optional<double> eval_loss;
  bool skipped = false;     // no update was made
  loss::Metrics objective;  // what the objective says of the step, under its names
};

class RunLog {
 public:
  // first_step > 0: TensorBoard events of an earlier run from that step on are superseded.
  // tensorboard_dir may be empty.
  RunLog(const std::filesystem::path& metrics, const std::string& tensorboard_dir,
         int64_t first_step);
  void step(const StepMetrics& m);
  void text(const std::string& tag, const std::string& text, int64_t step);
  void sync();

 private:
  io::MetricsLog metrics_;
  std::unique_ptr<io::EventWriter> events_;
};

}  // namespace hone::train
