// hone show: samples as the trainer sees them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "data/dataset.h"

namespace hone::app {

struct ShowOptions {
  std::string pretrained;  // model folder; no weights needed
  data::TextModelOptions text;
  data::DatasetOptions data;  // add_generation_prompt is one of these
  int64_t num_samples = -1;   // 0 = all; -1 = all for json, else 3
  bool json = false;          // one line a sample: {"text", "tokens", "trained"}
  enum class Color { kAuto, kAlways, kNever } color = Color::kAuto;
};

// Writes to out; returns the exit code. UserError as of Dataset; RuntimeError if writing fails.
int run_show(const ShowOptions& options, std::FILE* out = stdout);

}  // namespace hone::app
