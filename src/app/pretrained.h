// What --pretrained was given, looked at before anything is read.
#pragma once

#include <string>

namespace hone::app {

// UserError if no model was given.
void require_pretrained(const std::string& folder);

// UserError if it is not a folder with this file and it can be told what it is instead: nothing, a
// name on the hub, a file, an adapter, a run that isn't finished. needed: config.json, or
// tokenizer.json for what works without weights.
void check_pretrained(const std::string& folder, const char* needed = "config.json");

}  // namespace hone::app
