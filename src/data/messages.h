// Messages of records: roles, contents and tool calls in the spellings that are around.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "data/format.h"

namespace hone::data {

Json message(std::string_view role, std::string content);

// How the messages of a record are spelt.
struct MessageKeys {
  std::string role, content;
  const std::map<std::string, std::string>* roles = nullptr;  // from theirs to ours
};

// Appends the messages of a list, and to record.turn_trained whether each assistant turn is to be
// trained: as `trained` says unless a message says otherwise itself. RecordError.
void add_messages(const Json& list, const MessageKeys& keys, const FormatRules& rules,
                  std::optional<bool> trained, Json& messages, Record& record);

// A list of messages, or one message alone. RecordError naming the key.
Json as_message_list(const Json& value, std::string_view key);

// A system message in front, unless it is empty.
void set_system(Json& messages, std::string system);

// Makes the record a conversation of these messages, with the object's tools, documents and
// chat_template_kwargs.
void finish_chat(Record& record, Json messages, const Json& object, const std::string& tools_key);

}  // namespace hone::data
