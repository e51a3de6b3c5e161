// From the JSON of one record to what is to be tokenised, whatever format it is in.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "data/source.h"

namespace hone::data {

// Other names for the fields of a record, as in LLaMA-Factory's dataset_info.json. Empty = the
// field's usual name.
struct Columns {
  std::string prompt, query, response, history;  // alpaca
  std::string messages, system, tools;           // sharegpt
  std::string role_tag, content_tag;             // keys of a message
  std::map<std::string, std::string> roles;      // value of role_tag to role
};

struct Record {
  enum class Kind { kChat, kPromptCompletion, kText, kTokens, kPair };
  Kind kind = Kind::kText;
  DatasetFormat format = DatasetFormat::kText;

  // kChat: an array of messages, or {"messages", "tools", "documents"}.
  Json conversation;
  // kChat: one an assistant message, 0 = not to be trained; empty = all are.
  std::vector<uint8_t> turn_trained;

  std::string prompt, completion;  // kPromptCompletion
  std::string text;                // kText
  bool whole = true;               // kText: it ends where it ends, not in the middle of a text

  std::vector<Record> sides;  // kPair: chosen, rejected
  bool desirable = true;      // DatasetFormat::kLabelled

  std::vector<std::string> unused;  // fields of the record that its format doesn't read

  std::vector<int32_t> tokens;  // kTokens
  std::vector<uint8_t> trained;
  std::vector<int32_t> lengths;  // of its sequences, where they are several
};

struct FormatRules {
  DatasetFormat format = DatasetFormat::kAuto;
  std::optional<Columns> columns;
  // The template reads "reasoning_content"; else reasoning is put into the content as <think>.
  bool template_takes_reasoning = false;
  const std::string* template_source = nullptr;  // roles it names are accepted
};

// RecordError: what was found and what was expected.
Record interpret_record(const Json& json, const FormatRules& rules);

// One data set of a dataset_info.json.
struct DatasetInfoEntry {
  std::string file;  // as written there
  DatasetFormat format = DatasetFormat::kAuto;
  Columns columns;
};
// UserError: no such name (the names there are listed), a set that isn't a local file, one for
// preferences or images.
DatasetInfoEntry find_dataset_info(const std::string& info_path, const std::string& name);
bool has_dataset_info(const std::string& info_path, const std::string& name);

}  // namespace hone::data
