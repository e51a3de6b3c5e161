// Supervised fine-tuning.
#pragma once

#include "train/options.h"
#include "train/run.h"

namespace hone::train {

// Checks all that can be checked, loads, trains, saves. Errors as exceptions (core/error.h);
// nothing that existed is damaged.
RunEnd run_sft(const SftOptions& options, const RunEvents& events);

}  // namespace hone::train
