#include "app/config_file.h"

#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "io/files.h"

namespace hone::app {
namespace {

using Json = nlohmann::ordered_json;
constexpr uint64_t kMaxBytes = 1 << 20;

[[noreturn]] void bad_value(const std::string& path, const std::string& key) {
  user_error("config", "{}: the value of \"{}\" is neither a value nor a list of values", path,
             key);
}

std::string scalar(const std::string& path, const std::string& key, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  bad_value(path, key);
}

std::vector<ConfigEntry> read_json(const std::string& path, const std::string& text) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception& e) {
    user_error("config", "{} is not JSON: {}", path, e.what());
  }
  if (!json.is_object()) user_error("config", "{} is not a JSON object of flags", path);
  std::vector<ConfigEntry> entries;
  for (const auto& [key, value] : json.items()) {
    if (value.is_null()) continue;
    ConfigEntry entry{key, {}};
    // What a run's own configuration file says beyond its flags.
    if (key == "effective" && value.is_object()) continue;
    if (value.is_array()) {
      for (const Json& v : value) entry.values.push_back(scalar(path, key, v));
    } else {
      entry.values.push_back(scalar(path, key, value));
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::vector<ConfigEntry> read_yaml(const std::string& path, const std::string& text) {
  std::vector<ConfigEntry> entries;
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return entries;
    if (!root.IsMap())
      user_error("config", "{} is not a mapping of flags to values (lines such as \"lr: 2e-5\")",
                 path);
    std::set<std::string> seen;
    for (const auto& pair : root) {
      if (!pair.first.IsScalar()) user_error("config", "{}: a key is not a text", path);
      ConfigEntry entry{pair.first.Scalar(), {}};
      if (!seen.insert(entry.key).second)
        user_error("config", "{}: \"{}\" is there twice", path, entry.key);
      const YAML::Node& value = pair.second;
      if (value.IsNull()) continue;
      if (value.IsScalar()) {
        entry.values.push_back(value.Scalar());
      } else if (value.IsSequence()) {
        for (const auto& v : value) {
          if (!v.IsScalar()) bad_value(path, entry.key);
          entry.values.push_back(v.Scalar());
        }
      } else {
        bad_value(path, entry.key);
      }
      entries.push_back(std::move(entry));
    }
  } catch (const YAML::Exception& e) {
    user_error("config", "{}:{}: this is not YAML: {}", path, e.mark.line + 1, e.msg);
  }
  return entries;
}

}  // namespace

std::vector<ConfigEntry> read_config_file(const std::string& path) {
  const std::string text = io::read_text_file(path, kMaxBytes);
  return path.ends_with(".json") ? read_json(path, text) : read_yaml(path, text);
}

}  // namespace hone::app
