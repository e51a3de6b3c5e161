// Strict reading of JSON texts that came from outside: depth and duplicate keys checked, every
// field with its type and range, errors that name source, field, value and what is wanted.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace hone {

// Parses a text that must be one JSON object, nested at most 64 deep, with no key twice in one
// object and valid UTF-8. tag and source are named in the UserError. A byte order mark is accepted.
nlohmann::json parse_json_object(const std::string& text, std::string_view tag,
                                 const std::string& source);

// A value as it may be shown in an error: on one line, at most about 80 bytes.
std::string shown(const nlohmann::json& value);

// Fields of one JSON object. An absent field and null are the same: nullopt. Every method remembers
// the name, for unknown().
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string_view tag, std::string source,
             std::string prefix = "");

  bool has(std::string_view name);            // present and not null
  bool present(std::string_view name) const;  // present, null or not
  const nlohmann::json* get(std::string_view name);
  std::optional<int64_t> integer(std::string_view name, int64_t lowest, int64_t highest);
  int64_t required_integer(std::string_view name, int64_t lowest, int64_t highest);
  std::optional<double> number(std::string_view name, double lowest, double highest);
  std::optional<bool> boolean(std::string_view name);
  std::optional<std::string> text(std::string_view name);
  std::optional<std::vector<std::string>> texts(std::string_view name);
  std::optional<std::vector<int64_t>> integers(std::string_view name, int64_t lowest,
                                               int64_t highest);
  // null: absent. UserError if it is not an object.
  const nlohmann::json* object(std::string_view name);

  // Fields of an object inside, the value of a field or of a part of it, named so in errors.
  JsonFields inner(const nlohmann::json& object, const std::string& name) const;

  void ignore(std::initializer_list<std::string_view> names);
  std::vector<std::string> unknown() const;  // names never asked for nor ignored

  // A UserError about a field: "[tag] source: field is VALUE; text".
  [[noreturn]] void fail(std::string_view name, std::string_view text) const;

 private:
  const nlohmann::json& object_;
  std::string tag_;
  std::string source_;
  std::string prefix_;
  std::set<std::string, std::less<>> seen_;
};

}  // namespace hone
