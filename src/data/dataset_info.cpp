// LLaMA-Factory's dataset_info.json: names for local files and their columns.
#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "core/error.h"
#include "data/format.h"
#include "data/record_json.h"

namespace hone::data {

namespace {

Json load_info(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) user_error("dataset", "{}: cannot be opened; it was given as dataset_info", path);
  file.seekg(0, std::ios::end);
  const auto size = file.tellg();
  if (size < 0 || size > (std::streamoff{16} << 20))
    user_error("dataset", "{}: is {} bytes; a dataset_info has at most 16 MiB", path,
               static_cast<int64_t>(size));
  file.seekg(0);
  std::string text(static_cast<size_t>(size), '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  try {
    Json json = parse_json_record(text);
    if (!json.is_object()) throw RecordError("expected an object of data sets by name");
    return json;
  } catch (const RecordError& e) {
    user_error("dataset", "{}: {}", path, e.what());
  }
}

std::string text_at(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

}  // namespace

bool has_dataset_info(const std::string& info_path, const std::string& name) {
  return load_info(info_path).contains(name);
}

DatasetInfoEntry find_dataset_info(const std::string& info_path, const std::string& name) {
  const Json info = load_info(info_path);
  const auto it = info.find(name);
  if (it == info.end()) {
    std::string names;
    for (const auto& [key, value] : info.items()) names += (names.empty() ? "" : ", ") + key;
    user_error("dataset", "{}: has no data set \"{}\"; it has {}", info_path, name, names);
  }
  const Json& set = *it;
  if (!set.is_object() || text_at(set, "file_name").empty())
    user_error("dataset",
               "{}: \"{}\" names no local file (\"file_name\"); download it and give its path",
               info_path, name);
  if (const auto ranking = set.find("ranking"); ranking != set.end() && *ranking == Json(true))
    user_error("dataset", "{}: \"{}\" holds preference pairs, which are not for this command",
               info_path, name);
  DatasetInfoEntry entry;
  entry.file = text_at(set, "file_name");
  const std::string formatting = text_at(set, "formatting");
  if (formatting == "sharegpt") {
    entry.format = DatasetFormat::kShareGpt;
  } else if (formatting == "openai") {
    entry.format = DatasetFormat::kMessages;
  } else if (!formatting.empty() && formatting != "alpaca") {
    user_error("dataset", "{}: \"{}\" has formatting \"{}\"; expected alpaca, sharegpt or openai",
               info_path, name, formatting);
  }
  if (const auto columns = set.find("columns"); columns != set.end() && columns->is_object()) {
    for (const char* key : {"images", "videos", "audios", "kto_tag", "chosen", "rejected"}) {
      if (columns->contains(key))
        user_error("dataset", "{}: \"{}\" has a column for \"{}\", which is not for this command",
                   info_path, name, key);
    }
    entry.columns.prompt = text_at(*columns, "prompt");
    entry.columns.query = text_at(*columns, "query");
    entry.columns.response = text_at(*columns, "response");
    entry.columns.history = text_at(*columns, "history");
    entry.columns.messages = text_at(*columns, "messages");
    entry.columns.system = text_at(*columns, "system");
    entry.columns.tools = text_at(*columns, "tools");
  }
  if (const auto tags = set.find("tags"); tags != set.end() && tags->is_object()) {
    entry.columns.role_tag = text_at(*tags, "role_tag");
    entry.columns.content_tag = text_at(*tags, "content_tag");
    const std::pair<const char*, const char*> roles[] = {{"user_tag", "user"},
                                                         {"assistant_tag", "assistant"},
                                                         {"observation_tag", "tool"},
                                                         {"function_tag", "function_call"},
                                                         {"system_tag", "system"}};
    for (const auto& [tag, role] : roles)
      if (const std::string text = text_at(*tags, tag); !text.empty())
        entry.columns.roles[text] = role;
  }
  // A prompt column alone is plain text.
  if (formatting.empty() && !entry.columns.prompt.empty() && entry.columns.response.empty())
    entry.format = DatasetFormat::kText;
  else if (formatting == "alpaca" || !entry.columns.prompt.empty())
    entry.format = DatasetFormat::kAlpaca;
  return entry;
}

}  // namespace hone::data
