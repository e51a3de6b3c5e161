// The flags of hone sft, and the run they describe.
#pragma once

#include <memory>
#include <string>

#include "app/cli.h"
#include "train/sft.h"

namespace hone::app {

// Values of the flags as they were written.
struct SftFlags;

std::shared_ptr<SftFlags> add_sft_flags(Command& command);

struct SftRequest {
  train::SftOptions options;
  std::string config_file;         // the effective configuration is also written here; "" = nowhere
  std::vector<std::string> notes;  // one sentence each
};
// UserError for values that make no sense, contradict each other, or ask for what hone hasn't got.
// need_data: false lets a plan do without --dataset.
SftRequest sft_request(const Command& command, const SftFlags& flags, bool need_data = true);

}  // namespace hone::app
