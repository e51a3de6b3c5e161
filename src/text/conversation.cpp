#include "text/conversation.h"

#include <algorithm>
#include <cctype>
#include <ctime>

#include "core/error.h"
#include "text/ffi.h"

namespace hone {
namespace {

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

bool blank(std::string_view text) { return std::all_of(text.begin(), text.end(), is_space); }

std::string_view trim_end(std::string_view text) {
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return trim_end(text);
}

std::string role_of(const Json& message) {
  const auto it = message.find("role");
  return it != message.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// The text of a message that has nothing but a text to be rendered, else nullptr.
const std::string* plain_content(const Json& message) {
  for (const char* field : {"tool_calls", "reasoning_content", "reasoning", "thinking"}) {
    const auto it = message.find(field);
    if (it != message.end() && !it->is_null() && !it->empty()) return nullptr;
  }
  const auto it = message.find("content");
  return it != message.end() ? it->get_ptr<const std::string*>() : nullptr;
}

// Where the content ends in a turn's text that begins with it (whitespace aside); -1: it doesn't.
int64_t content_end(std::string_view turn, const Json& message) {
  const std::string* content = plain_content(message);
  if (content == nullptr || trim(*content).empty()) return -1;
  const std::string_view core = trim(*content);
  size_t at = 0;
  while (at < turn.size() && is_space(turn[at])) at++;
  if (turn.substr(at, core.size()) != core) return -1;
  at += core.size();
  // White space at the end belongs to it where the template keeps it.
  const std::string_view tail =
      std::string_view(*content).substr(core.data() + core.size() - content->data());
  if (turn.substr(at, tail.size()) == tail) at += tail.size();
  return static_cast<int64_t>(at);
}

}  // namespace

TrainOn parse_train_on(std::string_view name) {
  if (name == "assistant") return TrainOn::kAssistant;
  if (name == "last") return TrainOn::kLast;
  if (name == "all") return TrainOn::kAll;
  user_error("flags", "--train_on {} is not known; use assistant, last or all", name);
}

struct ConversationEncoder::Prepared {
  Json messages;
  RenderOptions render;
};

ConversationEncoder::ConversationEncoder(Tokenizer tokenizer, ChatTemplate chat_template,
                                         Options options)
    : tokenizer_(std::move(tokenizer)),
      template_(std::move(chat_template)),
      options_(std::move(options)) {}

ConversationEncoder::Prepared ConversationEncoder::prepare(const Json& input,
                                                           bool add_generation_prompt) const {
  Prepared prepared{Json::array(), options_.render};
  prepared.render.add_generation_prompt = add_generation_prompt;
  if (input.is_object()) {
    const auto list = input.find("messages");
    if (list == input.end()) user_error("template", "a conversation has no \"messages\"");
    prepared.messages = *list;
    for (auto [name, place] : {std::pair{"tools", &prepared.render.tools},
                               std::pair{"documents", &prepared.render.documents}}) {
      const auto it = input.find(name);
      if (it == input.end() || it->is_null()) continue;
      // Some data sets keep the list as a JSON text.
      *place = it->is_string() ? Json::parse(it->get<std::string>(), nullptr, false) : *it;
      if (!place->is_array())
        user_error("template", "\"{}\" of a conversation is not a list", name);
      if (place->empty()) *place = nullptr;
    }
  } else {
    prepared.messages = input;
  }
  Json& messages = prepared.messages;
  if (!messages.is_array() || messages.empty()) {
    user_error("template", "a conversation must be a list of messages, and not an empty one");
  }
  for (size_t i = 0; i < messages.size(); i++) {
    if (!messages[i].is_object() || role_of(messages[i]).empty()) {
      user_error("template", "message {} of a conversation has no \"role\"", i + 1);
    }
  }
  if (!options_.system_prompt.empty()) {
    const std::string first = role_of(messages[0]);
    if (first != "system" && first != "developer") {
      messages.insert(messages.begin(),
                      Json{{"role", "system"}, {"content", options_.system_prompt}});
    }
  }
  if (prepared.render.now < 0) prepared.render.now = static_cast<int64_t>(std::time(nullptr));
  return prepared;
}

std::string ConversationEncoder::render(const Json& messages, bool add_generation_prompt) const {
  const Prepared prepared = prepare(messages, add_generation_prompt);
  return template_.render(prepared.messages, prepared.render).text;
}

namespace {

// One assistant turn, and what rendering the conversation up to it gave.
struct Turn {
  int64_t index;                              // of the message
  const ChatTemplate::PrefixResult* before;   // the messages before, with the generation prompt
  const ChatTemplate::PrefixResult* through;  // up to and with this turn; null: the whole text
};

// The span of a turn. Returns an empty text where it was found, else why it can't be.
std::string find_span(const std::string& text, const std::vector<ByteRange>& specials,
                      const Json& message, const Turn& turn, ByteRange* span) {
  if (!turn.before->error.empty()) {
    return fmt::format("the messages before it can't be rendered alone: {}", turn.before->error);
  }
  if (turn.through != nullptr && !turn.through->error.empty()) {
    return fmt::format("the conversation up to it can't be rendered alone: {}",
                       turn.through->error);
  }
  const std::string& before = turn.before->rendered.text;
  if (!text.starts_with(before)) {
    const auto [a, b] = std::mismatch(before.begin(), before.end(), text.begin(), text.end());
    return fmt::format(
        "what comes before it, with the generation prompt, is not how the whole conversation is "
        "written (it differs at byte {} of {}: the template rewrites earlier turns, or its "
        "generation prompt is not the beginning of a turn)",
        a - before.begin(), before.size());
  }
  const std::string& through = turn.through != nullptr ? turn.through->rendered.text : text;
  const auto mismatch = std::mismatch(through.begin(), through.end(), text.begin(), text.end());
  const int64_t common = mismatch.first - through.begin();
  const auto begin = static_cast<int64_t>(before.size());
  const std::string_view whole = text;

  // As the last turn it must have been written as it stands now, but for white space after it.
  const std::string_view written = trim_end(through);
  if (common < static_cast<int64_t>(written.size())) {
    return fmt::format(
        "the template writes it differently once the conversation goes on (at byte {})", common);
  }

  auto special_from = [&](int64_t at) {
    return std::find_if(specials.begin(), specials.end(),
                        [at](const ByteRange& r) { return r.begin >= at; });
  };
  int64_t end = -1;
  const int64_t content = content_end(whole.substr(begin), message);
  if (content >= 0) {
    // Content, then the stop: the first special token, if it is still this turn's or follows at
    // once.
    end = begin + content;
    const auto stop = special_from(end);
    if (stop != specials.end() && (stop->begin < static_cast<int64_t>(through.size()) ||
                                   blank(whole.substr(end, stop->begin - end)))) {
      end = stop->end;
    }
  } else {
    // Not content alone (tool calls, reasoning, something the template writes around it): all of
    // the turn, to the special token it ends with.
    end = std::max(begin, static_cast<int64_t>(written.size()));
    const bool closed = std::any_of(specials.begin(), specials.end(), [&](const ByteRange& r) {
      return r.end == end && r.begin >= begin;
    });
    if (!closed) {
      const auto stop = special_from(end);
      if (stop != specials.end() && blank(whole.substr(end, stop->begin - end))) end = stop->end;
    }
  }
  *span = {begin, end};
  return "";
}

}  // namespace

TokenizedText ConversationEncoder::encode(const Json& input, bool add_generation_prompt) const {
  const Prepared prepared = prepare(input, add_generation_prompt);
  const Json& messages = prepared.messages;
  const auto count = static_cast<int64_t>(messages.size());
  const bool marked = template_.has_generation_blocks();

  std::vector<int64_t> assistants;
  for (int64_t i = 0; i < count; i++) {
    if (role_of(messages[i]) == "assistant") assistants.push_back(i);
  }
  const bool only_last = options_.train_on == TrainOn::kLast;
  if (only_last && assistants.size() > 1) assistants = {assistants.back()};

  std::vector<ChatTemplate::Prefix> prefixes = {{count, add_generation_prompt}};
  if (options_.train_on != TrainOn::kAll) {
    for (const int64_t i : assistants) {
      if (marked) {
        if (only_last) prefixes.push_back({i, false});
        continue;
      }
      prefixes.push_back({i, true});
      if (i + 1 < count || add_generation_prompt) prefixes.push_back({i + 1, false});
    }
  }
  std::vector<ChatTemplate::PrefixResult> results =
      template_.render_prefixes(messages, prepared.render, prefixes);
  if (!results[0].error.empty()) {
    user_error("template", "the chat template can't render a conversation: {}", results[0].error);
  }

  TokenizedText out;
  out.text = std::move(results[0].rendered.text);
  Encoding encoding = tokenizer_.encode_with_ranges(out.text);
  out.tokens = std::move(encoding.ids);
  const std::vector<ByteRange>& ranges = encoding.ranges;
  const size_t n = out.tokens.size();
  out.trained.assign(n, 0);
  if (options_.train_on == TrainOn::kAll) {
    if (n > 0) std::fill(out.trained.begin() + 1, out.trained.end(), 1);
    return out;
  }

  std::vector<ByteRange> spans;
  if (marked) {
    spans = results[0].rendered.generation;
    if (only_last && results.size() > 1) {
      const size_t earlier = std::min(results[1].rendered.generation.size(), spans.size());
      spans.erase(spans.begin(), spans.begin() + static_cast<int64_t>(earlier));
    }
  } else {
    std::vector<ByteRange> specials;
    for (size_t t = 0; t < n; t++) {
      if (tokenizer_.is_special(out.tokens[t])) specials.push_back(ranges[t]);
    }
    std::vector<Turn> turns;
    size_t next = 1;
    for (const int64_t i : assistants) {
      turns.push_back({i, &results[next++], nullptr});
      if (i + 1 < count || add_generation_prompt) turns.back().through = &results[next++];
    }
    auto find = [&](const Turn& turn, ByteRange* span) {
      return find_span(out.text, specials, messages[turn.index], turn, span);
    };
    for (const Turn& turn : turns) {
      ByteRange span;
      const std::string why = find(turn, &span);
      if (why.empty()) {
        spans.push_back(span);
        continue;
      }
      const bool last_works = &turn != &turns.back() && find(turns.back(), &span).empty();
      user_error("template",
                 "an exact loss mask is impossible with this chat template: message {} "
                 "(assistant): {}; use {}--train_on all to train on every token, or another "
                 "template with --conversation_template",
                 turn.index + 1, why,
                 last_works ? "--train_on last to train on the last assistant turn only, " : "");
    }
  }
  size_t s = 0;
  for (size_t t = 1; t < n; t++) {
    const ByteRange& r = ranges[t];
    while (s < spans.size() && spans[s].end < r.end) s++;
    if (s == spans.size()) break;
    out.trained[t] = r.begin < r.end && spans[s].begin <= r.begin ? 1 : 0;
  }
  return out;
}

TokenizedText encode_plain_text(const Tokenizer& tokenizer, std::string text,
                                bool add_special_tokens) {
  TokenizedText out;
  out.tokens = tokenizer.encode(text, add_special_tokens);
  out.text = std::move(text);
  out.trained.assign(out.tokens.size(), 1);
  if (!out.trained.empty()) out.trained[0] = 0;
  return out;
}

ConversationTemplateFile load_conversation_template(const std::string& path) {
  std::string text;
  if (!text_ffi::read_file_if_exists(path, &text)) {
    user_error("template", "conversation template {} does not exist", path);
  }
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) {
    user_error("template", "conversation template {} is not a JSON object", path);
  }
  auto field = [&](const char* name, bool needed) {
    const auto it = json.find(name);
    if (it == json.end() || it->is_null()) {
      if (needed) user_error("template", "conversation template {} has no \"{}\"", path, name);
      return std::string();
    }
    if (!it->is_string()) {
      user_error("template", "conversation template {}: \"{}\" is not a text", path, name);
    }
    return it->get<std::string>();
  };
  ConversationTemplateFile file;
  file.chat_template = field("chat_template", true);
  file.system_message = field("system_message", false);
  file.end_of_assistant = field("end_of_assistant", false);
  const auto ids = json.find("stop_ids");
  if (ids != json.end() && !ids->is_null()) {
    if (!ids->is_array()) {
      user_error("template", "conversation template {}: \"stop_ids\" is not a list", path);
    }
    for (const Json& id : *ids) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
        user_error("template", "conversation template {}: stop id {} is not a token id", path,
                   id.dump());
      }
      file.stop_ids.push_back(id.get<int32_t>());
    }
  }
  return file;
}

}  // namespace hone
