#include "data/record_json.h"

#include <algorithm>

namespace hone::data {
namespace {

constexpr int kMaxDepth = 200;

// Depth of nesting, strings left out; values are copied and written recursively.
void check_depth(std::string_view bytes) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth)
        fail("JSON nested deeper than {} at byte {} of the record", kMaxDepth, i);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

// What is often the matter with what isn't JSON.
std::string_view hint_of_broken(std::string_view bytes, size_t at) {
  if (at > bytes.size()) return " on one line";
  if (at <= bytes.size() && at > 0 && bytes[at - 1] == '\'')
    return "; single quotes are Python's: write records with json.dumps";
  return "";
}

}  // namespace

std::string keys_of(const Json& object) {
  std::string out;
  int shown = 0;
  for (const auto& [key, value] : object.items()) {
    if (shown == 8) return out + ", ...";
    if (shown++ > 0) out += ", ";
    out += '"' + key.substr(0, 40) + '"';
  }
  return out;
}

std::string what_is(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return fmt::format("an object with the keys {}", value.empty() ? "(none)" : keys_of(value));
    case Json::value_t::array:
      return fmt::format("a list of {}", value.size());
    case Json::value_t::string: {
      const auto& text = value.get_ref<const std::string&>();
      size_t n = std::min<size_t>(text.size(), 40);
      while (n > 0 && n < text.size() && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) --n;
      return fmt::format("the string {}",
                         Json(text.substr(0, n) + (n < text.size() ? "..." : "")).dump());
    }
    case Json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    default:
      return "the number " + value.dump();
  }
}

const Json* find(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(std::string(key));
  return it == object.end() ? nullptr : &*it;
}

const std::string& string_of(const Json& value, std::string_view name) {
  if (!value.is_string()) fail("\"{}\" is {}; expected a string", name, what_is(value));
  return value.get_ref<const std::string&>();
}

const std::string& string_at(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  if (!value) fail("\"{}\" is missing among the keys {}", key, keys_of(object));
  return string_of(*value, key);
}

std::string optional_string(const Json& object, std::string_view key) {
  const Json* value = key.empty() ? nullptr : find(object, key);
  if (!value || value->is_null()) return {};
  return string_of(*value, key);
}

std::string text_or_number(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  if (value && value->is_number()) return value->dump();
  return string_at(object, key);
}

Json parse_inner(std::string_view text) {
  check_depth(text);
  return Json::parse(text, nullptr, false);
}

Json parse_json_record(std::string_view bytes) {
  if (const size_t bad = find_invalid_utf8(bytes); bad != std::string_view::npos)
    fail("invalid UTF-8: byte 0x{:02X} at byte {} of the record; convert the file to UTF-8",
         static_cast<unsigned char>(bytes[bad]), bad);
  check_depth(bytes);
  try {
    return Json::parse(bytes);
  } catch (const Json::parse_error& e) {
    // nlohmann's text without its own position prefix.
    std::string_view why = e.what();
    if (const size_t at = why.find("syntax error"); at != std::string_view::npos)
      why.remove_prefix(at);
    if (const size_t at = why.find("; last read"); at != std::string_view::npos)
      why = why.substr(0, at);
    fail("not valid JSON at byte {} of the record ({}); expected one complete JSON value{}", e.byte,
         why, hint_of_broken(bytes, e.byte));
  } catch (const Json::exception& e) {
    fail("not valid JSON: {}", e.what());
  }
}

}  // namespace hone::data
