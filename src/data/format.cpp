#include "data/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "data/fields.h"
#include "data/record_json.h"

namespace hone::data {

namespace {

Json message(std::string_view role, std::string content) {
  Json m = Json::object();
  m["role"] = std::string(role);
  m["content"] = std::move(content);
  return m;
}

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

// How the messages of a record are spelt.
struct MessageKeys {
  std::string role, content;
  const std::map<std::string, std::string>* roles = nullptr;
};

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

// Appends the messages of a list to a record.
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

// A list of messages, or one message alone.
Json as_message_list(const Json& value, std::string_view key) {
  if (value.is_object()) return Json::array({value});
  if (!value.is_array()) fail("\"{}\" is {}; expected a list of messages", key, what_is(value));
  return value;
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

void set_system(Json& messages, std::string system) {
  if (!system.empty()) messages.push_back(message("system", std::move(system)));
}

void interpret_messages(const Json& json, const FormatRules& rules, Record& record) {
  Json messages = Json::array();
  const MessageKeys keys{"role", "content"};
  if (json.is_array()) {
    add_messages(json, keys, rules, std::nullopt, messages, record);
    return finish_chat(record, std::move(messages), Json::object(), "tools");
  }
  const Json* list = find(json, "messages");
  if (!list)
    fail("found {}; expected a list of messages or an object with \"messages\"", what_is(json));
  add_messages(as_message_list(*list, "messages"), keys, rules, std::nullopt, messages, record);
  const std::string system = optional_string(json, "system");
  if (!system.empty() && !messages.empty()) {
    if (messages[0]["role"] == "system" || messages[0]["role"] == "developer")
      fail(
          "there is a \"system\" beside messages that begin with a {} message; leave one of them "
          "out",
          messages[0]["role"].get_ref<const std::string&>());
    messages.insert(messages.begin(), message("system", system));
  }
  finish_chat(record, std::move(messages), json, "tools");
}

void interpret_sharegpt(const Json& json, const FormatRules& rules, Record& record) {
  const Columns* columns = rules.columns ? &*rules.columns : nullptr;
  const auto name = [&](const std::string Columns::*field, const char* usual) {
    return columns && !((*columns).*field).empty() ? (*columns).*field : std::string(usual);
  };
  const std::string list_key = name(&Columns::messages, "conversations");
  const Json* list = find(json, list_key);
  if (!list) fail("found {}; expected an object with \"{}\"", what_is(json), list_key);
  Json messages = Json::array();
  set_system(messages, optional_string(json, name(&Columns::system, "system")));
  const MessageKeys keys{name(&Columns::role_tag, "from"), name(&Columns::content_tag, "value"),
                         columns ? &columns->roles : nullptr};
  Json as_list = as_message_list(*list, list_key);
  if (as_list.empty()) fail("\"{}\" is empty; expected at least one message", list_key);
  add_messages(as_list, keys, rules, std::nullopt, messages, record);
  finish_chat(record, std::move(messages), json, name(&Columns::tools, "tools"));
}

void interpret_alpaca(const Json& json, const FormatRules& rules, Record& record) {
  const Columns* columns = rules.columns ? &*rules.columns : nullptr;
  const auto name = [&](const std::string Columns::*field, const char* usual) {
    if (!columns || ((*columns).*field).empty()) return std::string(usual);
    return (*columns).*field;
  };
  if (!json.is_object())
    fail("found {}; expected an object with \"instruction\" and \"output\"", what_is(json));
  Json messages = Json::array();
  set_system(messages, optional_string(json, name(&Columns::system, "system")));
  const std::string history_key = name(&Columns::history, "history");
  if (const Json* history = find(json, history_key); history && !history->is_null()) {
    if (!history->is_array())
      fail("\"{}\" is {}; expected a list of pairs", history_key, what_is(*history));
    for (const Json& pair : *history) {
      if (!pair.is_array() || pair.size() != 2)
        fail("\"{}\" holds {}; expected pairs [question, answer]", history_key, what_is(pair));
      messages.push_back(message("user", string_of(pair[0], history_key)));
      messages.push_back(message("assistant", string_of(pair[1], history_key)));
    }
  }
  std::string user = string_at(json, name(&Columns::prompt, "instruction"));
  const std::string query = optional_string(json, name(&Columns::query, "input"));
  if (!query.empty()) user += (user.empty() ? "" : "\n") + query;
  messages.push_back(message("user", std::move(user)));
  messages.push_back(
      message("assistant", text_or_number(json, name(&Columns::response, "output"))));
  finish_chat(record, std::move(messages), json, name(&Columns::tools, "tools"));
}

void interpret_prompt_completion(const Json& json, const FormatRules& rules, Record& record) {
  const Json* prompt = find(json, "prompt");
  const Json* completion = find(json, "completion");
  if (!prompt || !completion)
    fail("found {}; expected an object with \"prompt\" and \"completion\"", what_is(json));
  if (prompt->is_string() && completion->is_string()) {
    record.kind = Record::Kind::kPromptCompletion;
    record.prompt = *prompt;
    record.completion = *completion;
    return;
  }
  if (prompt->is_string() || completion->is_string())
    fail("\"prompt\" is {} and \"completion\" is {}; expected two strings or two lists of messages",
         what_is(*prompt), what_is(*completion));
  Json messages = Json::array();
  const MessageKeys keys{"role", "content"};
  add_messages(as_message_list(*prompt, "prompt"), keys, rules, false, messages, record);
  add_messages(as_message_list(*completion, "completion"), keys, rules, true, messages, record);
  finish_chat(record, std::move(messages), json, "tools");
}

// "sequences": lengths that add up to all tokens. The first token of each is no target.
void interpret_sequences(const Json& sequences, Record& record) {
  const auto count = static_cast<int64_t>(record.tokens.size());
  if (!sequences.is_array())
    fail("\"sequences\" is {}; expected a list of lengths", what_is(sequences));
  int64_t total = 0;
  for (const Json& length : sequences) {
    if (!length.is_number_integer() || length < 1 || length > count - total)
      fail("\"sequences\" holds {} where {} of {} tokens are left; expected a length",
           what_is(length), count - total, count);
    record.trained[static_cast<size_t>(total)] = 0;
    record.lengths.push_back(length.get<int32_t>());
    total += record.lengths.back();
  }
  if (total != count)
    fail("\"sequences\" adds up to {} but there are {} tokens; expected the length of each", total,
         count);
}

void interpret_tokens(const Json& json, Record& record) {
  record.kind = Record::Kind::kTokens;
  const Json* tokens = find(json, "tokens");
  if (!tokens || !tokens->is_array())
    fail("found {}; expected an object with a list \"tokens\"", what_is(tokens ? *tokens : json));
  record.tokens.reserve(tokens->size());
  for (const Json& id : *tokens) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
      fail("token {} of \"tokens\" is {}; expected a token id", record.tokens.size(), what_is(id));
    record.tokens.push_back(id.get<int32_t>());
  }
  if (record.tokens.empty()) fail("\"tokens\" is empty; expected at least one token id");
  record.trained.assign(record.tokens.size(), 1);
  if (const Json* trained = find(json, "trained"); trained && !trained->is_null()) {
    if (!trained->is_array() || trained->size() != record.tokens.size())
      fail("\"trained\" is {} but there are {} tokens; expected one 0 or 1 a token",
           what_is(*trained), record.tokens.size());
    for (size_t i = 0; i < record.trained.size(); ++i) {
      const Json& t = (*trained)[i];
      const bool ok = t.is_boolean() || (t.is_number_integer() && (t == 0 || t == 1));
      if (!ok) fail("\"trained\" holds {} at {}; expected 0 or 1", what_is(t), i);
      record.trained[i] = t.is_boolean() ? t.get<bool>() : t == 1;
    }
  }
  record.trained[0] = 0;
  if (const Json* sequences = find(json, "sequences"); sequences && !sequences->is_null())
    interpret_sequences(*sequences, record);
}

DatasetFormat detect(const Json& json) {
  if (json.is_array()) {
    if (json.empty()) fail("the conversation is empty; expected at least one message");
    if (json[0].is_object() && (json[0].contains("role") || json[0].contains("from")))
      return DatasetFormat::kMessages;
    fail("found a list whose first element is {}; expected messages with \"role\" and \"content\"",
         what_is(json[0]));
  }
  if (!json.is_object()) fail("found {}; expected an object or a list of messages", what_is(json));
  const auto has = [&](const char* key) {
    const Json* v = find(json, key);
    return v && !v->is_null();
  };
  if (has("chosen") || has("rejected") || has("chosen_messages") || has("rejected_messages"))
    fail(
        "this is a preference record (keys {}), made for preference training, not for what is done "
        "here",
        keys_of(json));
  if (has("label") && json["label"].is_boolean())
    fail(
        "this record has a true/false \"label\", so it is made for KTO: answers labelled false "
        "would "
        "be trained too; name its format to train on all of them (--dataset_format messages, say)");
  if (has("tokens")) return DatasetFormat::kTokens;
  if (has("messages")) return DatasetFormat::kMessages;
  if (has("conversations")) return DatasetFormat::kShareGpt;
  if (has("instruction") && has("output")) return DatasetFormat::kAlpaca;
  if (has("prompt") && has("completion")) return DatasetFormat::kPromptCompletion;
  if (has("question") && has("answer")) return DatasetFormat::kQuestionAnswer;
  if (has("text")) return DatasetFormat::kText;
  fail(
      "found {}; expected one of: a list of {{\"role\", \"content\"}}, {{\"messages\"}}, "
      "{{\"conversations\"}}, {{\"instruction\", \"output\"}}, {{\"prompt\", \"completion\"}}, "
      "{{\"question\", \"answer\"}}, {{\"text\"}}, {{\"tokens\"}}",
      what_is(json));
}

// Fields that a format reads, by the names they have here.
std::vector<std::string> read_fields(DatasetFormat format, Record::Kind kind,
                                     const FormatRules& rules) {
  const Columns columns = rules.columns.value_or(Columns{});
  const auto or_usual = [](const std::string& name, const char* usual) {
    return name.empty() ? std::string(usual) : name;
  };
  const std::string system = or_usual(columns.system, "system");
  const std::string tools = or_usual(columns.tools, "tools");
  const std::vector<std::string> chat = {system, tools, "documents", "chat_template_kwargs"};
  std::vector<std::string> fields;
  switch (format) {
    case DatasetFormat::kMessages:
      fields = {"messages"};
      break;
    case DatasetFormat::kShareGpt:
      fields = {or_usual(columns.messages, "conversations")};
      break;
    case DatasetFormat::kAlpaca:
      fields = {or_usual(columns.prompt, "instruction"), or_usual(columns.query, "input"),
                or_usual(columns.response, "output"), or_usual(columns.history, "history")};
      break;
    case DatasetFormat::kPromptCompletion:
      fields = {"prompt", "completion"};
      break;
    case DatasetFormat::kQuestionAnswer:
      fields = {"question", "answer"};
      break;
    case DatasetFormat::kText:
      return {or_usual(columns.prompt, "text")};
    case DatasetFormat::kTokens:
      return {"tokens", "trained", "sequences"};
    case DatasetFormat::kAuto:
      break;
  }
  if (kind == Record::Kind::kChat) fields.insert(fields.end(), chat.begin(), chat.end());
  return fields;
}

void note_unused(const Json& json, const FormatRules& rules, Record& record) {
  if (!json.is_object()) return;
  const std::vector<std::string> fields = read_fields(record.format, record.kind, rules);
  for (const auto& [key, value] : json.items())
    if (!value.is_null() && std::find(fields.begin(), fields.end(), key) == fields.end())
      record.unused.push_back(key);
}

}  // namespace

Record interpret_record(const Json& json, const FormatRules& rules) {
  Record record;
  record.format = rules.format;
  if (record.format == DatasetFormat::kAuto) {
    record.format =
        rules.columns && !rules.columns->prompt.empty() ? DatasetFormat::kAlpaca : detect(json);
  } else if (json.is_object() && json.contains("tokens") && json["tokens"].is_array()) {
    record.format = DatasetFormat::kTokens;
  }
  switch (record.format) {
    case DatasetFormat::kMessages:
      interpret_messages(json, rules, record);
      break;
    case DatasetFormat::kShareGpt:
      interpret_sharegpt(json, rules, record);
      break;
    case DatasetFormat::kAlpaca:
      interpret_alpaca(json, rules, record);
      break;
    case DatasetFormat::kPromptCompletion:
      interpret_prompt_completion(json, rules, record);
      break;
    case DatasetFormat::kQuestionAnswer: {
      Json messages = Json::array();
      set_system(messages, optional_string(json, "system"));
      if (!json.is_object())
        fail("found {}; expected an object with \"question\" and \"answer\"", what_is(json));
      messages.push_back(message("user", string_at(json, "question")));
      messages.push_back(message("assistant", text_or_number(json, "answer")));
      finish_chat(record, std::move(messages), json, "tools");
      break;
    }
    case DatasetFormat::kText: {
      const std::string key =
          rules.columns && !rules.columns->prompt.empty() ? rules.columns->prompt : "text";
      record.kind = Record::Kind::kText;
      if (json.is_string()) {
        record.text = json;
      } else if (json.is_object()) {
        record.text = string_at(json, key);
      } else {
        fail("found {}; expected an object with \"{}\"", what_is(json), key);
      }
      break;
    }
    case DatasetFormat::kTokens:
      interpret_tokens(json, record);
      break;
    case DatasetFormat::kAuto:
      HONE_CHECK(false, "format is known here");
  }
  note_unused(json, rules, record);
  return record;
}

}  // namespace hone::data
