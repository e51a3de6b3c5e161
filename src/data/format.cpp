#include "data/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "data/fields.h"
#include "data/messages.h"
#include "data/pairs.h"
#include "data/record_json.h"

namespace hone::data {

namespace {

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
        "this is a preference record (keys {}), made for preference training (hone dpo), not for "
        "what "
        "is done here",
        keys_of(json));
  if (has("label") && json["label"].is_boolean())
    fail(
        "this record has a true/false \"label\", so it is made for hone kto: answers labelled "
        "false "
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
    case DatasetFormat::kPairs:
      fields = pair_fields();
      fields.insert(fields.end(), chat.begin(), chat.end());
      return fields;
    case DatasetFormat::kLabelled:
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

// A record of another format with a label.
Record interpret_labelled(const Json& json, const FormatRules& rules) {
  std::string key = find(json, "label") == nullptr ? "kto_tag" : "label";
  const Json* label = find(json, key);
  if (label == nullptr || !label->is_boolean())
    fail("found {}; expected an answer with a \"label\", true or false",
         label != nullptr   ? fmt::format("a \"{}\" that is {}", key, what_is(*label))
         : json.is_object() ? "the keys " + keys_of(json)
                            : what_is(json));
  Json answer = json;
  answer.erase(key);
  FormatRules own = rules;
  own.format = DatasetFormat::kAuto;
  Record record = interpret_record(answer, own);
  record.desirable = label->get<bool>();
  return record;
}

}  // namespace

Record interpret_record(const Json& json, const FormatRules& rules) {
  if (rules.format == DatasetFormat::kLabelled) return interpret_labelled(json, rules);
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
      if (rules.format == DatasetFormat::kPairs) check_pair_tokens(record);
      break;
    case DatasetFormat::kPairs:
      interpret_pair(json, rules, record);
      break;
    case DatasetFormat::kLabelled:
    case DatasetFormat::kAuto:
      HONE_CHECK(false, "format is known here");
  }
  note_unused(json, rules, record);
  return record;
}

}  // namespace hone::data
