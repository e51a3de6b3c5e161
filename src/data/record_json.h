// Reading the JSON of a record, with errors that say what was found.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "data/source.h"
#include "text/conversation.h"

namespace hone::data {

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw RecordError(fmt::format(format, std::forward<Args>(args)...));
}

// The JSON value of one record. RecordError: invalid UTF-8, not JSON, nested deeper than 200.
Json parse_json_record(std::string_view bytes);

// "a", "b", ... of an object, the first eight.
std::string keys_of(const Json& object);
// What a value is, for messages: its type and its beginning.
std::string what_is(const Json& value);

// Null: not an object, or without the key.
const Json* find(const Json& object, std::string_view key);
// RecordError unless it is a string.
const std::string& string_of(const Json& value, std::string_view name);
const std::string& string_at(const Json& object, std::string_view key);
// A text that may be absent, null or empty.
std::string optional_string(const Json& object, std::string_view key);
// Numbers are answers too.
std::string text_or_number(const Json& object, std::string_view key);

// JSON inside a string of a record; discarded where it is none.
Json parse_inner(std::string_view text);

}  // namespace hone::data
