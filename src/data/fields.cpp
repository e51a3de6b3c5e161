#include "data/fields.h"

#include <algorithm>
#include <array>
#include <set>

#include "data/record_json.h"

namespace hone::data {
namespace {

constexpr size_t kLookedAt = 8;  // records of each field that are compared

void parse_one(Json& holder) {
  const auto it = holder.find("arguments");
  if (it == holder.end() || !it->is_string()) return;
  Json parsed = parse_inner(it->get_ref<const std::string&>());
  if (parsed.is_object()) *it = std::move(parsed);
}

void remember(std::vector<int64_t>& first, int64_t index) {
  const auto at = std::lower_bound(first.begin(), first.end(), index);
  if (at != first.end() && *at == index) return;
  first.insert(at, index);
  if (first.size() > kLookedAt) first.pop_back();
}

}  // namespace

Json without_nulls(const Json& value) {
  if (value.is_object()) {
    Json out = Json::object();
    for (const auto& [key, member] : value.items())
      if (!member.is_null()) out[key] = without_nulls(member);
    return out;
  }
  if (value.is_array()) {
    Json out = Json::array();
    for (const Json& element : value) out.push_back(without_nulls(element));
    return out;
  }
  return value;
}

void parse_arguments(Json& tool_calls) {
  if (!tool_calls.is_array()) return;
  for (Json& call : tool_calls) {
    if (!call.is_object()) continue;
    parse_one(call);
    if (const auto it = call.find("function"); it != call.end() && it->is_object()) parse_one(*it);
  }
}

TrainedKey trained_key(std::string_view key, const Json& value, std::string_view where) {
  static constexpr std::array<std::string_view, 6> kKeys = {"weight", "loss_weight", "loss",
                                                            "train",  "training",    "trainable"};
  const bool opposite = key == "masked";
  if (!opposite && std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) return {};
  if (value.is_null()) return {.known = true};
  if (value.is_boolean()) return {.known = true, .on = value.get<bool>() != opposite};
  if (value.is_number() && (value.get<double>() == 0.0 || value.get<double>() == 1.0))
    return {.known = true, .on = (value.get<double>() == 1.0) != opposite};
  fail("{}: \"{}\" is {}; a message is trained or not: expected true, false, 0 or 1", where, key,
       what_is(value));
}

void FieldUse::add(const Record& record, int64_t index) {
  for (const std::string& field : record.unused) {
    unused_[field].count++;
    remember(unused_[field].first, index);
  }
  if (record.kind != Record::Kind::kChat) return;
  std::set<MessageField> fields;
  const Json& c = record.conversation;
  const Json& messages = c.is_object() ? c.at("messages") : c;
  if (c.is_object())
    for (const auto& [key, value] : c.items())
      if (key != "messages") fields.insert({"", key});
  for (const Json& m : messages) {
    const std::string role = m.at("role").get<std::string>();
    for (const auto& [key, value] : m.items()) {
      const bool said = key == "content" && (role == "assistant" || value == Json(""));
      if (key != "role" && !said) fields.insert({role, key});
    }
  }
  for (const MessageField& field : fields) {
    messages_[field].count++;
    remember(messages_[field].first, index);
  }
}

void FieldUse::add(const FieldUse& other) {
  const auto merge = [](auto& mine, const auto& theirs) {
    for (const auto& [field, seen] : theirs) {
      mine[field].count += seen.count;
      for (const int64_t index : seen.first) remember(mine[field].first, index);
    }
  };
  merge(unused_, other.unused_);
  merge(messages_, other.messages_);
}

void FieldUse::find_unreached(const std::function<bool(int64_t, const MessageField&)>& changes) {
  std::erase_if(messages_, [&](const auto& entry) {
    const auto& [field, seen] = entry;
    return std::any_of(seen.first.begin(), seen.first.end(),
                       [&, name = field](int64_t index) { return changes(index, name); });
  });
}

namespace {

std::string name_of(const std::string& field) { return '"' + field.substr(0, 60) + '"'; }

std::string name_of(const MessageField& field) {
  if (field.role.empty()) return name_of(field.name);
  return fmt::format("{} of {} messages", name_of(field.name), field.role);
}

template <class Fields>
std::string list_of(const Fields& fields) {
  std::string out;
  for (const auto& [field, seen] : fields)
    out += fmt::format("{}{} ({} record{})", out.empty() ? "" : ", ", name_of(field), seen.count,
                       seen.count == 1 ? "" : "s");
  return out;
}

}  // namespace

std::string FieldUse::unused_fields() const { return list_of(unused_); }
std::string FieldUse::unreached_fields() const { return list_of(messages_); }

Json without_field(const Json& conversation, const MessageField& field) {
  Json out = conversation;
  if (field.role.empty()) {
    out.erase(field.name);
    return out;
  }
  for (Json& m : out.is_object() ? out["messages"] : out) {
    if (m.at("role") != field.role) continue;
    if (field.name == "content") {
      m["content"] = "";
    } else {
      m.erase(field.name);
    }
  }
  return out;
}

}  // namespace hone::data
