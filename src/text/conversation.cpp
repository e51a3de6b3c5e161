#include "text/conversation.h"

#include <algorithm>
#include <ctime>

#include "core/error.h"
#include "text/ffi.h"
#include "text/spans.h"

namespace hone {

using text_spans::role_of;

TrainOn parse_train_on(std::string_view name) {
  if (name == "assistant") return TrainOn::kAssistant;
  if (name == "last") return TrainOn::kLast;
  if (name == "all") return TrainOn::kAll;
  user_error("flags", "--train_on {} is not known; use assistant, last or all", name);
}

struct ConversationEncoder::Prepared {
  Json messages;
  RenderOptions render;
  Json parts;  // the messages as a template takes them that wants contents in parts; else null

  const Json& for_template() const { return parts.is_null() ? messages : parts; }
};

ConversationEncoder::ConversationEncoder(Tokenizer tokenizer, ChatTemplate chat_template,
                                         Options options)
    : tokenizer_(std::move(tokenizer)),
      template_(std::move(chat_template)),
      options_(std::move(options)) {
  tool_form_ = find_tool_form(template_, options_.render);
  wants_parts_ = wants_parts(template_, options_.render);
  find_turn_ends();
}

ConversationEncoder::Prepared ConversationEncoder::prepare(const Json& input,
                                                           bool add_generation_prompt) const {
  Prepared prepared{Json::array(), options_.render, nullptr};
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
  if (input.is_object()) {
    const auto kwargs = input.find("chat_template_kwargs");
    if (kwargs != input.end() && kwargs->is_object()) prepared.render.variables.update(*kwargs);
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
  apply_tool_form(tool_form_, messages);
  if (wants_parts_) prepared.parts = with_parts(messages);
  if (prepared.render.now < 0) prepared.render.now = static_cast<int64_t>(std::time(nullptr));
  return prepared;
}

std::string ConversationEncoder::render(const Json& messages, bool add_generation_prompt) const {
  const Prepared prepared = prepare(messages, add_generation_prompt);
  return template_.render(prepared.for_template(), prepared.render).text;
}

namespace {

// Marks the tokens that lie whole in a span, the first token aside. spans: ascending.
void mark(const std::vector<ByteRange>& ranges, const std::vector<ByteRange>& spans,
          std::span<uint8_t> trained) {
  size_t s = 0;
  for (size_t t = 1; t < ranges.size(); t++) {
    const ByteRange& r = ranges[t];
    while (s < spans.size() && spans[s].end < r.end) s++;
    if (s == spans.size()) return;
    trained[t] = r.begin < r.end && spans[s].begin <= r.begin ? 1 : 0;
  }
}

// The spans behind those that a shorter conversation has, too.
std::vector<ByteRange> behind(const ChatTemplate::PrefixResult& earlier,
                              std::vector<ByteRange> spans) {
  const size_t n = std::min(earlier.rendered.generation.size(), spans.size());
  spans.erase(spans.begin(), spans.begin() + static_cast<std::ptrdiff_t>(n));
  return spans;
}

// Whether `whole` begins with `part`, white space at part's end aside.
bool written_alike(std::string_view whole, std::string_view part) {
  const size_t end = part.find_last_not_of(" \t\r\n");
  return whole.starts_with(part.substr(0, end == std::string_view::npos ? 0 : end + 1));
}

std::vector<ByteRange> special_ranges(const Tokenizer& tokenizer, const Encoding& encoding) {
  std::vector<ByteRange> specials;
  for (size_t t = 0; t < encoding.ids.size(); t++) {
    if (tokenizer.is_special(encoding.ids[t])) specials.push_back(encoding.ranges[t]);
  }
  return specials;
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
      prefixes.push_back({i, !marked});
      if (i + 1 < count || add_generation_prompt) prefixes.push_back({i + 1, false});
    }
  }
  std::vector<ChatTemplate::PrefixResult> results =
      template_.render_prefixes(prepared.for_template(), prepared.render, prefixes);
  if (!results[0].error.empty()) {
    user_error("template", "the chat template can't render a conversation: {}", results[0].error);
  }

  TokenizedText out;
  out.text = std::move(results[0].rendered.text);
  Encoding encoding = tokenizer_.encode_with_ranges(out.text);
  out.trained.assign(encoding.ids.size(), 0);
  if (options_.train_on == TrainOn::kAll) {
    if (!out.trained.empty()) std::fill(out.trained.begin() + 1, out.trained.end(), 1);
    out.tokens = std::move(encoding.ids);
    return out;
  }

  std::vector<ByteRange> spans;
  if (marked) {
    spans = results[0].rendered.generation;
    size_t next = 1;
    for (const int64_t i : assistants) {
      if (only_last) spans = behind(results[next], spans);
      next++;
      if (i + 1 == count && !add_generation_prompt) break;
      // Written as it stands when it was the last one, white space aside.
      const ChatTemplate::PrefixResult& through = results[next++];
      if (!through.error.empty() || !written_alike(out.text, through.rendered.text))
        return encode_by_answer(prepared, assistants,
                                "the template writes earlier turns differently");
    }
  } else {
    const std::vector<ByteRange> specials = special_ranges(tokenizer_, encoding);
    size_t next = 1;
    for (const int64_t i : assistants) {
      text_spans::Turn turn{.before = &results[next++], .through = nullptr};
      if (i + 1 < count || add_generation_prompt) turn.through = &results[next++];
      const std::string why =
          text_spans::find_span(out.text, specials, messages[i], turn, &spans.emplace_back());
      if (!why.empty()) return encode_by_answer(prepared, assistants, why);
      const ByteRange& span = spans.back();
      const auto written = std::string_view(out.text).substr(
          static_cast<size_t>(span.begin), static_cast<size_t>(span.end - span.begin));
      if (!text_spans::keeps_thought(written, messages[i]))
        return encode_by_answer(prepared, assistants, "a thought is left out");
      if (text_spans::lacks_answer(out.text, span, specials, messages[i]))
        return encode_by_answer(prepared, assistants, "what it says is left out");
      if (!text_spans::missing_ends(written).empty())
        return encode_by_answer(prepared, assistants, "a list of calls is left open");
    }
    const bool ends = !assistants.empty() && assistants.back() + 1 == count;
    if (ends && !add_generation_prompt && close(specials, &spans.back(), &out.text)) {
      encoding = tokenizer_.encode_with_ranges(out.text);
      out.trained.assign(encoding.ids.size(), 0);
    }
  }
  mark(encoding.ranges, spans, out.trained);
  out.tokens = std::move(encoding.ids);
  return out;
}

// Each answer as a sequence of its own: the conversation that ends with it, as it is when the
// answer is generated. why: what is wrong with the conversation as a whole.
TokenizedText ConversationEncoder::encode_by_answer(const Prepared& prepared,
                                                    const std::vector<int64_t>& assistants,
                                                    const std::string& why) const {
  std::vector<ChatTemplate::Prefix> prefixes;
  for (const int64_t i : assistants) {
    prefixes.push_back({i, false});
    prefixes.push_back({i, true});
    prefixes.push_back({i + 1, false});
  }
  std::vector<ChatTemplate::PrefixResult> results =
      template_.render_prefixes(prepared.for_template(), prepared.render, prefixes);
  TokenizedText out;
  for (size_t k = 0; k < assistants.size(); k++) {
    const Json& message = prepared.messages[assistants[k]];
    const auto failed = [&](const std::string& reason) {
      user_error("template",
                 "an exact loss mask is impossible with this chat template: in the whole "
                 "conversation {}; and alone, message {} (assistant): {}; use --train_on all to "
                 "train on every token, or another template with --conversation_template",
                 why, assistants[k] + 1, reason);
    };
    ChatTemplate::PrefixResult& through = results[3 * k + 2];
    const ChatTemplate::PrefixResult* before = &results[3 * k + 1];
    if (!through.error.empty()) failed("it can't be rendered: " + through.error);
    if (!before->error.empty())
      failed("the messages before it can't be rendered: " + before->error);
    if (template_.has_generation_blocks()) {
      append_sequence(through.rendered.text, behind(results[3 * k], through.rendered.generation),
                      &out);
      continue;
    }
    // Without messages some templates write nothing, others fail.
    const std::string& header = results[3 * k].rendered.text;
    std::string text;
    const std::string last = assistants[k] > 0
                                 ? text_spans::content_of(prepared.messages[assistants[k] - 1])
                                 : std::string();
    const std::string reason = text_spans::answer_text(
        {.header = header, .before = before->rendered.text, .through = through.rendered.text},
        message, last, template_.source(), &text);
    if (!reason.empty()) failed(reason);
    if (const std::string why_not = append_answer(std::move(text), *before, message, &out);
        !why_not.empty())
      failed(why_not);
  }
  return out;
}

std::string ConversationEncoder::append_answer(std::string text,
                                               const ChatTemplate::PrefixResult& before,
                                               const Json& message, TokenizedText* out) const {
  const text_spans::Turn turn{.before = &before, .through = nullptr};
  ByteRange span;
  const std::vector<ByteRange> specials =
      special_ranges(tokenizer_, tokenizer_.encode_with_ranges(text));
  const std::string why = text_spans::find_span(text, specials, message, turn, &span);
  HONE_CHECK(why.empty(), "the answer begins behind its prompt");
  if (text_spans::lacks_answer(text, span, specials, message))
    return "the template doesn't write what it says";
  const std::string missing = text_spans::missing_ends(std::string_view(text).substr(
      static_cast<size_t>(span.begin), static_cast<size_t>(span.end - span.begin)));
  if (missing.empty()) {
    close(specials, &span, &text);
  } else {
    text.resize(static_cast<size_t>(span.end));
    text += missing + turn_end_;
    span.end = static_cast<int64_t>(text.size());
  }
  // As when it is generated: the prompt's tokens, then those of the answer.
  std::vector<int32_t> tokens = tokenizer_.encode(before.rendered.text);
  const size_t prompt = tokens.size();
  const std::vector<int32_t> whole = tokenizer_.encode(text);
  if (std::ranges::mismatch(tokens, whole).in1 == tokens.end()) {
    append_sequence(text, {span}, out);
    return "";
  }
  // A token of the whole text goes over the border.
  const std::string answer =
      text.substr(static_cast<size_t>(span.begin), static_cast<size_t>(span.end - span.begin));
  const std::vector<int32_t> words = tokenizer_.encode(answer);
  tokens.insert(tokens.end(), words.begin(), words.end());
  std::string written;
  for (const int32_t id : tokens) written += tokenizer_.token_bytes(id);
  if (written != before.rendered.text + answer) {
    append_sequence(text, {span}, out);
    return "";
  }
  out->text += written;
  out->trained.resize(out->trained.size() + prompt, 0);
  out->trained.resize(out->trained.size() + words.size(), 1);
  out->tokens.insert(out->tokens.end(), tokens.begin(), tokens.end());
  out->lengths.push_back(static_cast<int32_t>(tokens.size()));
  return "";
}

// Where a template ends a turn by beginning the next one, the last turn of a text has no end: it
// gets it. False if it has one, or the template never writes one.
bool ConversationEncoder::close(const std::vector<ByteRange>& specials, ByteRange* span,
                                std::string* text) const {
  const bool closed = std::any_of(specials.begin(), specials.end(), [&](const ByteRange& r) {
    return r.end == span->end && r.begin >= span->begin;
  });
  if (closed || turn_end_.empty()) return false;
  text->resize(static_cast<size_t>(span->end));
  *text += turn_end_;
  span->end = static_cast<int64_t>(text->size());
  return true;
}

void ConversationEncoder::append_sequence(const std::string& text,
                                          const std::vector<ByteRange>& spans,
                                          TokenizedText* out) const {
  const Encoding encoding = tokenizer_.encode_with_ranges(text);
  const size_t begin = out->trained.size();
  out->trained.resize(begin + encoding.ids.size(), 0);
  mark(encoding.ranges, spans, std::span(out->trained).subspan(begin));
  out->tokens.insert(out->tokens.end(), encoding.ids.begin(), encoding.ids.end());
  out->lengths.push_back(static_cast<int32_t>(encoding.ids.size()));
  out->text += text;
}

// What the template writes behind an answer in a conversation of two turns.
void ConversationEncoder::find_turn_ends() {
  Json talk = Json::array();
  for (const char* role : {"user", "assistant", "user", "assistant"})
    talk.push_back({{"role", role}, {"content", talk.size() % 2 == 0 ? "Who?" : "Me."}});
  const TrainOn asked = options_.train_on;
  options_.train_on = TrainOn::kAssistant;
  try {
    // The text that closes the first turn, be it the next one's opening.
    const std::string text = render(talk);
    const Encoding encoding = tokenizer_.encode_with_ranges(text);
    const size_t answer = text.find("Me.");
    for (size_t t = 0; answer != std::string::npos && t < encoding.ids.size(); t++) {
      if (!tokenizer_.is_special(encoding.ids[t]) ||
          encoding.ranges[t].begin < static_cast<int64_t>(answer))
        continue;
      const size_t end = answer + std::string_view("Me.").size();
      const auto between =
          std::string_view(text).substr(end, static_cast<size_t>(encoding.ranges[t].begin) - end);
      if (between.find_first_not_of(" \t\r\n") != std::string_view::npos) break;
      turn_end_ =
          text.substr(static_cast<size_t>(encoding.ranges[t].begin),
                      static_cast<size_t>(encoding.ranges[t].end - encoding.ranges[t].begin));
      break;
    }
    turn_end_ids_ = trained_ends(encode(talk));
  } catch (const UserError&) {
    // A template that takes no such conversation has no ends that could be told beforehand.
  }
  options_.train_on = asked;
}

std::vector<int32_t> ConversationEncoder::trained_ends(const TokenizedText& text) const {
  std::vector<int32_t> ids;
  for (size_t t = 1; t < text.tokens.size(); t++) {
    const bool ends = text.trained[t] && (t + 1 == text.tokens.size() || !text.trained[t + 1]);
    if (ends && tokenizer_.is_special(text.tokens[t]) &&
        std::find(ids.begin(), ids.end(), text.tokens[t]) == ids.end())
      ids.push_back(text.tokens[t]);
  }
  return ids;
}

TokenizedText encode_plain_text(const Tokenizer& tokenizer, std::string text,
                                std::string_view eos) {
  TokenizedText out;
  if (!text.ends_with(eos)) text += eos;
  out.tokens = tokenizer.encode(text, /*add_special_tokens=*/true);
  // Some tokenizers add the end themselves.
  const size_t n = out.tokens.size();
  const auto end = tokenizer.id_of(eos);
  if (end && n > 1 && out.tokens[n - 1] == *end && out.tokens[n - 2] == *end) out.tokens.pop_back();
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
    const bool jinja = text.find("{{") != std::string::npos || text.find("{%") != std::string::npos;
    user_error("template", "conversation template {} is not a JSON object{}", path,
               jinja ? "; a file of Jinja ends in .jinja: name it so" : "");
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
