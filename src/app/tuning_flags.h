// What the flags of tuning mean together: the original's lora_config.json, an adapter to go on
// from.
#pragma once

#include <string>

#include "app/cli.h"
#include "train/options.h"

namespace hone::app {

// Brings the lists of o into their form, reads lora_config (a file, or "") and what an adapter says
// of itself. UserError for flags that contradict them or could not act.
void settle_tuning(const Command& c, const std::string& lora_config, train::TrainerOptions& o);

}  // namespace hone::app
