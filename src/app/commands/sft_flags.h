// The flags of hone sft and hone plan sft.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "app/train_flags.h"

namespace hone::app {

struct SftFlags {
  train::SftOptions o;
  TrainFlags common;
  bool disable_loss_mask = false;
};

std::shared_ptr<SftFlags> add_sft_flags(Command& c);
// As settle_options().
std::vector<std::string> settle_sft(const Command& c, SftFlags& f, bool need_data);

}  // namespace hone::app
