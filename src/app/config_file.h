// Flags from a YAML or JSON file.
#pragma once

#include <string>
#include <vector>

namespace hone::app {

struct ConfigEntry {
  std::string key;
  std::vector<std::string> values;  // one, or those of a list
};

// One mapping of keys to scalars or lists of scalars, in the order of the file; null values are
// left out. A .json file, else YAML. UserError with file and line or key.
std::vector<ConfigEntry> read_config_file(const std::string& path);

}  // namespace hone::app
