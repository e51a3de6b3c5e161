#include "app/prompts.h"

#include "app/json_lines.h"
#include "core/error.h"
#include "data/format.h"

namespace hone::app {

PromptReader::PromptReader(const data::TextModel* text, int64_t vocab,
                           const std::string& system_prompt)
    : text_(text), vocab_(vocab) {
  if (text_ == nullptr || !text_->chat_template) return;
  ConversationEncoder::Options options;
  options.system_prompt = system_prompt.empty() ? text_->system_message : system_prompt;
  options.render.variables = text_->variables;
  encoder_.emplace(text_->tokenizer, *text_->chat_template, options);
}

std::vector<int32_t> PromptReader::chat(const Json& json, const std::string& where) const {
  if (!encoder_)
    user_error("input", "{}: this is a chat, but {}, or write {{\"prompt\": ...}}", where,
               text_ ? text_->no_template() : "the model has no tokenizer.json");
  try {
    data::FormatRules rules;
    rules.format = data::DatasetFormat::kMessages;
    rules.template_source = &text_->chat_template->source();
    const data::Record record = data::interpret_record(json, rules);
    // The generation prompt opens an answer, unless an answer is what the chat ends with.
    const Json& c = record.conversation;
    const Json& messages = c.is_object() ? c.at("messages") : c;
    const bool open = messages.back().at("role") != "assistant";
    std::vector<int32_t> tokens =
        text_->tokenizer.encode(encoder_->render(c, open), /*add_special_tokens=*/false);
    check_ids(tokens, where);
    return tokens;
  } catch (const data::RecordError& e) {
    user_error("input", "{}: {}", where, e.what());
  } catch (const UserError& e) {
    user_error("input", "{}: {}", where, e.what());
  }
}

std::vector<int32_t> PromptReader::read(const Json& json, const std::string& where) const {
  std::vector<int32_t> tokens;
  if (json.is_array()) {
    tokens = chat(json, where);
  } else if (json.is_object() && json.contains("prompt") && !json.contains("messages")) {
    const Json& prompt = json["prompt"];
    if (prompt.is_array()) {
      tokens = chat(prompt, where);
    } else if (!prompt.is_string()) {
      user_error("input", "{}: \"prompt\" is {}; expected a text", where, prompt.type_name());
    } else if (text_ == nullptr) {
      user_error("input", "{}: a text needs a tokenizer.json in the model's folder", where);
    } else {
      tokens = text_->tokenizer.encode(prompt.get_ref<const std::string&>(), true);
    }
  } else if (json.is_object() && json.contains("messages")) {
    tokens = chat(json, where);
  } else if (json.is_object() && json.contains("tokens")) {
    return token_list(json["tokens"], vocab_, where);
  } else {
    user_error("input",
               "{}: found {}; expected {{\"prompt\": text}}, a list of messages, {{\"messages\": "
               "[...]}} or {{\"tokens\": [...]}}",
               where, json.is_object() ? "an object with none of these fields" : json.type_name());
  }
  if (tokens.empty()) user_error("input", "{}: the prompt has no tokens; write something", where);
  check_ids(tokens, where);
  return tokens;
}

void PromptReader::check_ids(const std::vector<int32_t>& tokens, const std::string& where) const {
  for (const int32_t id : tokens)
    if (id >= vocab_)
      user_error("input", "{}: the prompt has token id {}, outside the model's {} embeddings",
                 where, id, vocab_);
}

}  // namespace hone::app
