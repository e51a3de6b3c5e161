// Where a run goes on from: its own checkpoints, another one's, or nowhere.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "io/checkpoint.h"
#include "io/run_folder.h"

namespace hone::train {

// In a run's folder once all its steps are done: {"step", "identity"}.
constexpr const char* kFinishedFile = "finished.json";

struct ResumeRequest {
  const io::RunFolder& folder;
  std::string resume_from;        // a checkpoint's folder; empty: the latest good one of folder
  bool may_start_afresh = false;  // where there is none
  nlohmann::json identity;        // what must be equal for the run to go on as if never stopped
  int64_t steps = 0;              // of the whole run
  std::function<void(const std::string&)> say;
};

struct ResumePoint {
  bool finished = false;  // nothing is left to do
  std::optional<io::TrainingCheckpoint> checkpoint;
  // of the checkpoint, checked: steps done, updates made, tokens of a micro-batch
  int64_t step = 0, updates = 0, micro_batch_tokens = 0;
};

// UserError if what is there can't be gone on with: made with other values, damaged, or missing.
ResumePoint find_resume_point(const ResumeRequest& request);

}  // namespace hone::train
