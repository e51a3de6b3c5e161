#include "data/messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "data/fields.h"
#include "data/record_json.h"

namespace hone::data {
namespace {

Json tools_of(const Json& value) {
  if (value.is_null()) return nullptr;
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (text.find_first_not_of(" \t\r\n") == std::string::npos) return nullptr;
    Json parsed = parse_inner(text);
    if (parsed.is_discarded() || !parsed.is_array())
      fail("\"tools\" is {}; expected a list of tools, or a string with the JSON of one",
           what_is(value));
    return parsed.empty() ? Json(nullptr) : parsed;
  }
  if (!value.is_array()) fail("\"tools\" is {}; expected a list of tools", what_is(value));
  return value.empty() ? Json(nullptr) : value;
}

Json tool_call_of(std::string_view text, std::string_view where) {
  Json call = parse_inner(text);
  const auto wrap = [&](const Json& one) {
    const Json* name = find(one, "name");
    if (!name || !name->is_string() || !find(one, "arguments"))
      fail("{}: a function call is {}; expected {{\"name\": ..., \"arguments\": ...}}", where,
           what_is(one));
    Json out = Json::object();
    out["type"] = "function";
    out["function"] = Json::object();
    out["function"]["name"] = *name;
    out["function"]["arguments"] = one.at("arguments");
    return out;
  };
  Json calls = Json::array();
  if (call.is_array() && !call.empty()) {
    for (const Json& one : call) calls.push_back(wrap(one));
  } else if (call.is_object()) {
    calls.push_back(wrap(call));
  } else {
    fail("{}: a function call is {}; expected the JSON of {{\"name\": ..., \"arguments\": ...}}",
         where, what_is(Json(std::string(text))));
  }
  return calls;
}

std::string map_role(const std::string& role, const MessageKeys& keys, const FormatRules& rules,
                     std::string_view where) {
  if (keys.roles) {
    const auto it = keys.roles->find(role);
    if (it != keys.roles->end()) return it->second;
  }
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kRoles = {{
      {"system", "system"},
      {"user", "user"},
      {"assistant", "assistant"},
      {"tool", "tool"},
      {"human", "user"},
      {"gpt", "assistant"},
      {"observation", "tool"},
      {"function_call", "function_call"},
      {"developer", "developer"},
      {"function", "function"},
      {"ipython", "ipython"},
      {"chatgpt", "assistant"},
      {"model", "assistant"},
      {"bot", "assistant"},
  }};
  for (const auto& [from, to] : kRoles)
    if (role == from) return std::string(to);
  if (rules.template_source &&
      (rules.template_source->find('\'' + role + '\'') != std::string::npos ||
       rules.template_source->find('"' + role + '"') != std::string::npos))
    return role;
  fail(
      "{}: the role is \"{}\"; expected system, user, assistant or tool (or human, gpt, "
      "function_call, observation)",
      where, role);
}

// Adds content given as a list of parts to m.
void add_parts(const Json& parts, Json& m, std::string_view where, const FormatRules& rules) {
  std::string text, reasoning;
  bool has_reasoning = false;
  Json calls = Json::array();
  for (const Json& part : parts) {
    if (part.is_string()) {
      text += part.get_ref<const std::string&>();
      continue;
    }
    const Json* type = find(part, "type");
    if (!type || !type->is_string())
      fail("{}: a part of the content is {}; expected {{\"type\": \"text\", \"text\": ...}}", where,
           what_is(part));
    const auto& t = type->get_ref<const std::string&>();
    const Json* value = find(part, "value");
    if (!value) value = find(part, t);
    if (!value) value = find(part, "text");
    if (t == "text") {
      if (!value) fail("{}: a text part has no \"text\"", where);
      text += string_of(*value, "text");
    } else if (t == "reasoning") {
      if (!value) fail("{}: a reasoning part has no \"value\"", where);
      reasoning += string_of(*value, "value");
      has_reasoning = true;
    } else if (t == "tool_call" && value) {
      for (Json& call : tool_call_of(string_of(*value, "value"), where))
        calls.push_back(std::move(call));
    } else {
      fail("{}: the content has a part of type \"{}\"; only text can be trained on", where, t);
    }
  }
  if (has_reasoning && !rules.template_takes_reasoning) {
    text = "<think>\n" + reasoning + "\n</think>\n\n" + text;
    has_reasoning = false;
  }
  m["content"] = std::move(text);
  if (has_reasoning) m["reasoning_content"] = std::move(reasoning);
  if (!calls.empty()) m["tool_calls"] = std::move(calls);
}

}  // namespace

Json message(std::string_view role, std::string content) {
  Json m = Json::object();
  m["role"] = std::string(role);
  m["content"] = std::move(content);
  return m;
}

void add_messages(const Json& list, const MessageKeys& keys, const FormatRules& rules,
                  std::optional<bool> trained, Json& messages, Record& record) {
  int64_t number = 0;
  for (const Json& in : list) {
    const std::string where = fmt::format("message {}", ++number);
    if (!in.is_object())
      fail("{} is {}; expected an object with a role and content", where, what_is(in));
    const Json* role_value = find(in, keys.role);
    std::string role_key = keys.role;
    for (const char* other : {"role", "from"}) {
      if (role_value) break;
      role_value = find(in, other);
      role_key = other;
    }
    if (!role_value) fail("{} has no \"{}\" among its keys {}", where, keys.role, keys_of(in));
    const std::string& role_in = string_of(*role_value, role_key);
    const std::string role = map_role(role_in, keys, rules, where);

    const Json* content = find(in, keys.content);
    std::string content_key = keys.content;
    for (const char* other : {"content", "value"}) {
      if (content) break;
      content = find(in, other);
      content_key = other;
    }
    Json m = Json::object();
    if (role == "function_call") {
      if (!content) fail("{} has no \"{}\" among its keys {}", where, keys.content, keys_of(in));
      m["role"] = "assistant";
      m["content"] = "";
      m["tool_calls"] = tool_call_of(string_of(*content, content_key), where);
    } else {
      m["role"] = role;
      if (!content || content->is_null()) {
        const Json* calls = find(in, "tool_calls");
        if (role != "assistant" || !calls || calls->is_null())
          fail("{} ({}) has no \"{}\"; its keys are {}", where, role, keys.content, keys_of(in));
        m["content"] = "";
      } else if (content->is_array()) {
        add_parts(*content, m, where, rules);
      } else {
        m["content"] = string_of(*content, content_key);
      }
    }
    bool turn = trained.value_or(true);
    for (const auto& [key, value] : in.items()) {
      if (key == role_key || key == content_key) continue;
      if (const TrainedKey said = trained_key(key, value, where); said.known) {
        if (m["role"] == "assistant" && said.on == false) turn = false;
        if (m["role"] != "assistant" && said.on == true)
          fail(
              "{}: \"{}\" is {} on a {} message; only what the assistant says can be trained turn "
              "by turn (--train_on all trains everything)",
              where, key, value.dump(), role);
        continue;
      }
      if (!value.is_null() && !m.contains(key)) m[key] = without_nulls(value);
    }
    if (const auto calls = m.find("tool_calls"); calls != m.end()) parse_arguments(*calls);
    if (m["role"] == "assistant") record.turn_trained.push_back(turn);
    messages.push_back(std::move(m));
  }
}

Json as_message_list(const Json& value, std::string_view key) {
  if (value.is_object()) return Json::array({value});
  if (!value.is_array()) fail("\"{}\" is {}; expected a list of messages", key, what_is(value));
  return value;
}

void set_system(Json& messages, std::string system) {
  if (!system.empty()) messages.push_back(message("system", std::move(system)));
}

void finish_chat(Record& record, Json messages, const Json& object, const std::string& tools_key) {
  if (messages.empty()) fail("the conversation is empty; expected at least one message");
  record.kind = Record::Kind::kChat;
  if (std::all_of(record.turn_trained.begin(), record.turn_trained.end(),
                  [](uint8_t t) { return t != 0; }))
    record.turn_trained.clear();
  const Json* tools_value = find(object, tools_key);
  Json tools = tools_value ? without_nulls(tools_of(*tools_value)) : Json(nullptr);
  const Json* documents = find(object, "documents");
  if (documents && documents->is_null()) documents = nullptr;
  const Json* kwargs = find(object, "chat_template_kwargs");
  if (kwargs && kwargs->is_null()) kwargs = nullptr;
  if (kwargs && !kwargs->is_object())
    fail("\"chat_template_kwargs\" is {}; expected an object", what_is(*kwargs));
  if (tools.is_null() && !documents && !kwargs) {
    record.conversation = std::move(messages);
    return;
  }
  record.conversation = Json::object();
  record.conversation["messages"] = std::move(messages);
  if (!tools.is_null()) record.conversation["tools"] = std::move(tools);
  if (documents) record.conversation["documents"] = *documents;
  if (kwargs) record.conversation["chat_template_kwargs"] = *kwargs;
}

}  // namespace hone::data
