// Samples for `hone loss` from JSON.
#pragma once

#include <string>

#include "loss/batch.h"
#include "text/chat_template.h"

namespace hone::app {

// {"samples": [{...}, ...]} with the fields that loss/batch.h names. UserError naming file, sample
// and field: a value of another type, a number that isn't finite, a field that only some samples
// have, an unknown field.
loss::Batch read_loss_batch(const Json& json, const std::string& source);

}  // namespace hone::app
