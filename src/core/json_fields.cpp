#include "core/json_fields.h"

#include <cmath>

#include "core/error.h"

namespace hone {
namespace {

constexpr int kMaxDepth = 64;

const char* type_text(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::null:
      return "null";
    case nlohmann::json::value_t::object:
      return "an object";
    case nlohmann::json::value_t::array:
      return "a list";
    case nlohmann::json::value_t::string:
      return "a string";
    case nlohmann::json::value_t::boolean:
      return "a boolean";
    default:
      return "a number";
  }
}

}  // namespace

std::string shown(const nlohmann::json& value) {
  std::string text;
  if (value.is_object() || value.is_array()) {
    if (value.size() > 16) return fmt::format("{} of {} entries", type_text(value), value.size());
  }
  if (value.is_string() && value.get_ref<const std::string&>().size() > 4096) {
    return fmt::format("a string of {} bytes", value.get_ref<const std::string&>().size());
  }
  text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

nlohmann::json parse_json_object(const std::string& text, std::string_view tag,
                                 const std::string& source) {
  std::vector<std::set<std::string>> keys;
  auto callback = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxDepth) user_error(tag, "{}: JSON nested deeper than {}", source, kMaxDepth);
    if (event == Event::object_start) {
      keys.emplace_back();
    } else if (event == Event::object_end) {
      keys.pop_back();
    } else if (event == Event::key) {
      if (!keys.back().insert(value.get<std::string>()).second) {
        user_error(tag, "{}: the key {} occurs twice in one object; keep one", source,
                   shown(value));
      }
    }
    return true;
  };
  nlohmann::json parsed;
  try {
    parsed = nlohmann::json::parse(text, callback);
  } catch (const nlohmann::json::exception& e) {
    std::string why = e.what();
    // The library's text starts with its own code in brackets.
    if (const size_t end = why.find("] "); end != std::string::npos) why = why.substr(end + 2);
    std::string clean;
    for (const char c : why.substr(0, 200)) clean += (c >= 32 && c < 127) ? c : '?';
    user_error(tag, "{} is not valid JSON: {}", source, clean);
  }
  if (!parsed.is_object()) {
    user_error(tag, "{} must be a JSON object, but is {}", source, type_text(parsed));
  }
  return parsed;
}

JsonFields::JsonFields(const nlohmann::json& object, std::string_view tag, std::string source,
                       std::string prefix)
    : object_(object), tag_(tag), source_(std::move(source)), prefix_(std::move(prefix)) {}

const nlohmann::json* JsonFields::get(std::string_view name) {
  seen_.emplace(name);
  const auto it = object_.find(name);
  if (it == object_.end() || it->is_null()) return nullptr;
  return &*it;
}

bool JsonFields::has(std::string_view name) { return get(name) != nullptr; }

bool JsonFields::present(std::string_view name) const {
  return object_.find(name) != object_.end();
}

void JsonFields::fail(std::string_view name, std::string_view text) const {
  const auto it = object_.find(name);
  if (it == object_.end()) {
    user_error(tag_, "{}: {}{} is missing; {}", source_, prefix_, name, text);
  }
  user_error(tag_, "{}: {}{} is {}; {}", source_, prefix_, name, shown(*it), text);
}

std::optional<int64_t> JsonFields::integer(std::string_view name, int64_t lowest, int64_t highest) {
  const nlohmann::json* value = get(name);
  if (!value) return std::nullopt;
  const std::string wanted = fmt::format("it must be an integer from {} to {}", lowest, highest);
  int64_t number = 0;
  if (value->is_number_unsigned()) {
    const uint64_t u = value->get<uint64_t>();
    if (u > static_cast<uint64_t>(INT64_MAX)) fail(name, wanted);
    number = static_cast<int64_t>(u);
  } else if (value->is_number_integer()) {
    number = value->get<int64_t>();
  } else if (value->is_number_float()) {
    const double d = value->get<double>();
    if (!(std::abs(d) < 9e15) || d != std::floor(d)) fail(name, wanted);
    number = static_cast<int64_t>(d);
  } else {
    fail(name, wanted);
  }
  if (number < lowest || number > highest) fail(name, wanted);
  return number;
}

int64_t JsonFields::required_integer(std::string_view name, int64_t lowest, int64_t highest) {
  const std::optional<int64_t> value = integer(name, lowest, highest);
  if (!value) fail(name, fmt::format("it must be an integer from {} to {}", lowest, highest));
  return *value;
}

std::optional<double> JsonFields::number(std::string_view name, double lowest, double highest) {
  const nlohmann::json* value = get(name);
  if (!value) return std::nullopt;
  const std::string wanted = fmt::format("it must be a number from {} to {}", lowest, highest);
  if (!value->is_number()) fail(name, wanted);
  const double d = value->get<double>();
  if (!(d >= lowest && d <= highest)) fail(name, wanted);
  return d;
}

std::optional<bool> JsonFields::boolean(std::string_view name) {
  const nlohmann::json* value = get(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) fail(name, "it must be true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonFields::text(std::string_view name) {
  const nlohmann::json* value = get(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) fail(name, "it must be a string");
  return value->get<std::string>();
}

std::optional<std::vector<std::string>> JsonFields::texts(std::string_view name) {
  const nlohmann::json* value = get(name);
  if (!value) return std::nullopt;
  if (!value->is_array()) fail(name, "it must be a list of strings");
  std::vector<std::string> result;
  for (const nlohmann::json& item : *value) {
    if (!item.is_string()) fail(name, "it must be a list of strings");
    result.push_back(item.get<std::string>());
  }
  return result;
}

std::optional<std::vector<int64_t>> JsonFields::integers(std::string_view name, int64_t lowest,
                                                         int64_t highest) {
  const nlohmann::json* value = get(name);
  if (!value) return std::nullopt;
  const std::string wanted =
      fmt::format("it must be a list of integers from {} to {}", lowest, highest);
  if (!value->is_array()) fail(name, wanted);
  std::vector<int64_t> result;
  for (const nlohmann::json& item : *value) {
    if (!item.is_number_integer()) fail(name, wanted);
    if (item.is_number_unsigned() && item.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      fail(name, wanted);
    }
    const int64_t number = item.get<int64_t>();
    if (number < lowest || number > highest) fail(name, wanted);
    result.push_back(number);
  }
  return result;
}

const nlohmann::json* JsonFields::object(std::string_view name) {
  const nlohmann::json* value = get(name);
  if (value && !value->is_object()) fail(name, "it must be an object");
  return value;
}

JsonFields JsonFields::inner(const nlohmann::json& object, const std::string& name) const {
  return {object, tag_, source_, prefix_ + name + "."};
}

void JsonFields::ignore(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) seen_.emplace(name);
}

std::vector<std::string> JsonFields::unknown() const {
  std::vector<std::string> result;
  for (const auto& [name, value] : object_.items()) {
    if (!seen_.contains(name)) result.push_back(prefix_ + name);
  }
  return result;
}

}  // namespace hone
