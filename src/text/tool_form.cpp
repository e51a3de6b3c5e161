#include "text/tool_form.h"

#include "core/error.h"

namespace hone {
namespace {

// As Python's json.dumps writes it.
void write_json(const Json& value, std::string& out) {
  if (value.is_object()) {
    out += '{';
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (it != value.begin()) out += ", ";
      out += Json(it.key()).dump() + ": ";
      write_json(it.value(), out);
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (size_t i = 0; i < value.size(); ++i) {
      if (i > 0) out += ", ";
      write_json(value[i], out);
    }
    out += ']';
  } else {
    out += value.dump();
  }
}

bool has_text(const Json& message) {
  const auto it = message.find("content");
  if (it == message.end() || it->is_null()) return false;
  return !it->is_string() || !it->get_ref<const std::string&>().empty();
}

void write_arguments(Json& holder) {
  const auto it = holder.find("arguments");
  if (it == holder.end() || !it->is_object()) return;
  std::string text;
  write_json(*it, text);
  *it = std::move(text);
}

constexpr const char* kArgument = "argument-of-the-probe";

Json probe() {
  return Json::parse(fmt::format(
      R"([{{"role": "user", "content": "Q"}},
          {{"role": "assistant", "tool_calls": [{{"id": "call00001", "type": "function",
            "function": {{"name": "probe", "arguments": {{"a": "{}"}}}}}}]}},
          {{"role": "tool", "name": "probe", "tool_call_id": "call00001", "content": "R"}},
          {{"role": "assistant", "content": "A"}}])",
      kArgument));
}

// Whether the call is written, and neither a None in place of a text nor its quotes escaped.
bool comes_out(const ChatTemplate& chat_template, const RenderOptions& options, const ToolForm& f) {
  Json messages = probe();
  apply_tool_form(f, messages);
  try {
    const std::string text = chat_template.render(messages, options).text;
    return text.find(kArgument) != std::string::npos && text.find("None") == std::string::npos &&
           text.find(std::string("\\\"") + kArgument) == std::string::npos;
  } catch (const UserError&) {
    return false;
  }
}

}  // namespace

ToolForm find_tool_form(const ChatTemplate& chat_template, const RenderOptions& options) {
  if (chat_template.source().find("tool_call") == std::string::npos) return {};
  for (const bool arguments_text : {false, true}) {
    for (const bool null_content : {false, true}) {
      const ToolForm form{.null_content = null_content, .arguments_text = arguments_text};
      if (comes_out(chat_template, options, form)) return form;
    }
  }
  return {};
}

bool wants_parts(const ChatTemplate& chat_template, const RenderOptions& options) {
  const std::string question = "question-of-the-probe", answer = "answer-of-the-probe";
  const Json chat = {{{"role", "user"}, {"content", question}},
                     {{"role", "assistant"}, {"content", answer}}};
  const auto writes_both = [&](const Json& messages) {
    try {
      const std::string text = chat_template.render(messages, options).text;
      return text.find(question) != std::string::npos && text.find(answer) != std::string::npos;
    } catch (const UserError&) {
      return false;
    }
  };
  return !writes_both(chat) && writes_both(with_parts(chat));
}

Json with_parts(Json messages) {
  for (Json& m : messages) {
    const auto content = m.find("content");
    if (content == m.end() || !content->is_string()) continue;
    Json part = {{"type", "text"}, {"text", std::move(*content)}};
    *content = Json::array({std::move(part)});
  }
  return messages;
}

void apply_tool_form(const ToolForm& form, Json& messages) {
  for (Json& m : messages) {
    const auto calls = m.find("tool_calls");
    if (calls == m.end() || !calls->is_array() || calls->empty()) continue;
    if (!has_text(m)) m["content"] = form.null_content ? Json(nullptr) : Json("");
    if (!form.arguments_text) continue;
    for (Json& call : m["tool_calls"]) {
      if (!call.is_object()) continue;
      write_arguments(call);
      if (const auto it = call.find("function"); it != call.end() && it->is_object())
        write_arguments(*it);
    }
  }
}

}  // namespace hone
