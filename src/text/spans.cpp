#include "text/spans.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstring>

namespace hone::text_spans {
namespace {

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

bool blank(std::string_view text) { return std::all_of(text.begin(), text.end(), is_space); }

std::string_view trim_end(std::string_view text) {
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string_view trim_start(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text;
}

std::string_view trim(std::string_view text) { return trim_end(trim_start(text)); }

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

// ---- thoughts

// How templates and models write thoughts.
struct ThoughtMarks {
  std::string_view open, close;
};
constexpr ThoughtMarks kThoughtMarks[] = {{"<think>", "</think>"},
                                          {"[THINK]", "[/THINK]"},
                                          {"<|channel>thought", "<channel|>"},
                                          {"<|START_THINKING|>", "<|END_THINKING|>"}};

// Where `part` begins in text, or npos; in linear time, which string_view::find doesn't promise.
size_t find_text(std::string_view text, std::string_view part) {
  if (part.empty()) return 0;
  if (text.empty()) return std::string_view::npos;
  const void* at = ::memmem(text.data(), text.size(), part.data(), part.size());
  return at == nullptr ? std::string_view::npos
                       : static_cast<size_t>(static_cast<const char*>(at) - text.data());
}

// The last of those places that don't overlap, or npos.
size_t find_last_text(std::string_view text, std::string_view part) {
  size_t last = std::string_view::npos;
  for (size_t from = 0; !part.empty();) {
    const size_t at = find_text(text.substr(from), part);
    if (at == std::string_view::npos) break;
    last = from + at;
    from = last + part.size();
  }
  return last;
}

bool has(std::string_view text, std::string_view part) {
  return find_text(text, part) != std::string_view::npos;
}

// The first marks of which one (open or close) is in the text, or null.
const ThoughtMarks* marks_in(std::string_view text, std::string_view ThoughtMarks::*which) {
  const auto it = std::find_if(std::begin(kThoughtMarks), std::end(kThoughtMarks),
                               [&](const ThoughtMarks& m) { return has(text, m.*which); });
  return it == std::end(kThoughtMarks) ? nullptr : it;
}

std::string_view text_field(const Json& message, const char* name) {
  const auto it = message.find(name);
  const auto* text = it != message.end() ? it->get_ptr<const std::string*>() : nullptr;
  return text != nullptr ? std::string_view(*text) : std::string_view();
}

// A message's thought and its answer. Views of the message.
struct Thought {
  std::string_view inner;       // without white space around it; "": it has none
  std::string_view answer;      // the content, or what stands behind the thought in it
  std::string_view in_content;  // the thought as the content has it, with its marks and the white
                                // space behind; "": it is a field of its own
  const ThoughtMarks* marks = nullptr;  // of in_content
};

Thought thought_of(const Json& message) {
  Thought t;
  t.answer = text_field(message, "content");
  for (const char* field : {"reasoning_content", "reasoning", "thinking"}) {
    t.inner = trim(text_field(message, field));
    if (!t.inner.empty()) return t;
  }
  t.marks = marks_in(t.answer, &ThoughtMarks::close);
  if (t.marks == nullptr) return t;
  const size_t close = t.answer.find(t.marks->close);
  const std::string_view rest = trim_start(t.answer.substr(close + t.marks->close.size()));
  t.inner = t.answer.substr(0, close);
  t.in_content = t.answer.substr(0, t.answer.size() - rest.size());
  t.answer = rest;
  if (const size_t open = t.inner.find(t.marks->open); open != std::string_view::npos)
    t.inner.remove_prefix(open + t.marks->open.size());
  t.inner = trim(t.inner);
  return t;
}

// Where the answer of a message with a thought ends in what was written for it; -1: it isn't there,
// or not alone (tool calls).
int64_t answer_end(std::string_view written, const Json& message) {
  const Thought thought = thought_of(message);
  const std::string_view answer = trim(thought.answer);
  const auto calls = message.find("tool_calls");
  if (thought.inner.empty() || answer.empty() || (calls != message.end() && !calls->empty()))
    return -1;
  const size_t at = find_last_text(written, answer);
  return at == std::string_view::npos ? -1 : static_cast<int64_t>(at + answer.size());
}

// Where the next message's turn begins in `through`: behind what `header` ends with, from the
// content of its last message on; before that the template may have rewritten something. npos:
// nowhere.
size_t turn_begin(std::string_view header, std::string_view through,
                  std::string_view last_content) {
  if (through.starts_with(header)) return header.size();
  constexpr size_t kUnknown = 64;  // bytes, where the content isn't found in the header
  const size_t content = find_last_text(header, trim(last_content));
  const size_t first = content != std::string_view::npos
                           ? content
                           : header.size() - std::min(header.size(), kUnknown);
  // The more stands before it, the surer it is the message meant.
  for (const size_t more : {256, 64, 16, 0}) {
    const std::string_view end = header.substr(first - std::min(first, more));
    const size_t at = find_last_text(through, end);
    if (at != std::string_view::npos) return at + end.size();
  }
  return std::string_view::npos;
}

// The thought as a model writes it. open: the prompt has opened it.
std::string written_thought(const Thought& thought, const ThoughtMarks& marks, bool open) {
  if (!thought.in_content.empty()) {
    std::string_view text = thought.in_content;
    if (open && trim_start(text).starts_with(marks.open)) {
      text = trim_start(text).substr(marks.open.size());
      if (text.starts_with('\n')) text.remove_prefix(1);
    }
    return std::string(text);
  }
  if (thought.inner.empty() && !open) return "";
  std::string text = open ? "" : std::string(marks.open) + "\n";
  text += thought.inner;
  return text + "\n" + std::string(marks.close) + "\n\n";
}

}  // namespace

std::string role_of(const Json& message) {
  const auto it = message.find("role");
  return it != message.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::string content_of(const Json& message) { return std::string(text_field(message, "content")); }

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
  int64_t content = content_end(whole.substr(begin), message);
  // What a template writes may end before the white space that its prompt ends with.
  if (const std::string_view turn = trim_end(through);
      content < 0 && turn.size() > static_cast<size_t>(begin))
    content = answer_end(turn.substr(static_cast<size_t>(begin)), message);
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

bool keeps_thought(std::string_view written, const Json& message) {
  const Thought thought = thought_of(message);
  if (thought.inner.empty()) return true;
  const size_t at = find_text(written, thought.inner);
  if (at == std::string_view::npos) return false;
  // Not behind an empty thought, which the template closed since it knows no other way.
  if (thought.marks != nullptr && has(written.substr(0, at), thought.marks->close)) return false;
  // The answer may hold the words of the thought, or not be written at all (beside tool calls).
  const std::string_view answer = trim(thought.answer);
  return !has(written, answer) || has(written.substr(at + thought.inner.size()), answer);
}

bool lacks_answer(std::string_view text, const ByteRange& span,
                  const std::vector<ByteRange>& specials, const Json& message) {
  const Thought thought = thought_of(message);
  const auto calls = message.find("tool_calls");
  if (trim(thought.answer).empty() || (calls != message.end() && !calls->empty())) return false;
  auto at = static_cast<size_t>(span.begin);
  const auto end = static_cast<size_t>(span.end);
  if (has(text.substr(at, end - at), trim(thought.answer))) return false;
  if (!thought.inner.empty()) {
    const size_t inner = find_text(text.substr(at, end - at), thought.inner);
    if (inner != std::string_view::npos) at += inner + thought.inner.size();
    const std::string_view rest = text.substr(at, end - at);
    if (const ThoughtMarks* marks = marks_in(rest, &ThoughtMarks::close))
      at += find_text(rest, marks->close) + marks->close.size();
  }
  for (const ByteRange& special : specials) {
    if (special.end <= static_cast<int64_t>(at) || special.begin >= span.end) continue;
    const auto begin = std::max(at, static_cast<size_t>(special.begin));
    if (!blank(text.substr(at, begin - at))) return false;
    at = static_cast<size_t>(special.end);
  }
  return at >= end || blank(text.substr(at, end - at));
}

std::string missing_ends(std::string_view written) {
  constexpr std::string_view kOpening = "<｜", kBegin = "▁begin｜>", kEnd = "▁end｜>";
  std::string missing;
  for (size_t at = 0; (at = written.find(kBegin, at)) != std::string_view::npos;
       at += kBegin.size()) {
    const size_t opening = written.rfind(kOpening, at);
    if (opening == std::string_view::npos) continue;
    const std::string end = std::string(written.substr(opening, at - opening)) + std::string(kEnd);
    if (!has(written.substr(at), end)) missing.insert(0, end);
  }
  return missing;
}

std::string answer_text(const AnswerTexts& t, const Json& message, std::string_view last_content,
                        std::string_view template_source, std::string* text) {
  const bool goes_on = t.through.starts_with(t.before);
  if (goes_on && keeps_thought(t.through.substr(t.before.size()), message)) {
    *text = std::string(t.through);
    return "";
  }
  // Some templates end a text that asks for no answer with a token of its own.
  const auto before = std::ranges::mismatch(t.header, t.before);
  const auto shared = static_cast<size_t>(before.in1 - t.header.begin());
  const size_t begin = goes_on ? shared : turn_begin(t.header, t.through, last_content);
  if (begin == std::string_view::npos || (!goes_on && shared < t.header.size()))
    return "the template writes the messages before it differently once it is there";
  // The generation prompt, and what the template writes for the message: alike in the beginning.
  const std::string_view prompt = t.before.substr(shared);
  std::string_view body = t.through.substr(begin);
  const auto same = std::mismatch(prompt.begin(), prompt.end(), body.begin(), body.end());
  size_t alike = static_cast<size_t>(same.first - prompt.begin());
  *text = std::string(t.before);
  if (blank(prompt.substr(alike)) && keeps_thought(body.substr(alike), message)) {
    *text += body.substr(alike);
    return "";
  }
  const ThoughtMarks* marks = marks_in(prompt, &ThoughtMarks::open);
  const bool prompted = marks != nullptr;
  if (prompted) alike = std::min(alike, prompt.rfind(marks->open));
  if (!prompted && !blank(prompt.substr(alike)))
    return fmt::format("the template doesn't begin it with \"{}\", as its prompt does", prompt);
  body = body.substr(alike);
  const Thought thought = thought_of(message);
  if (marks == nullptr) marks = thought.marks;
  if (marks == nullptr) marks = marks_in(template_source, &ThoughtMarks::close);
  if (marks == nullptr) marks = &kThoughtMarks[0];
  // Without the thought, empty or not, that the template writes, and without one that it left in
  // the content.
  for (std::string_view start = trim_start(body);
       start.starts_with(marks->open) || start.starts_with(marks->close);
       start = trim_start(body)) {
    const size_t close = start.find(marks->close);
    if (close == std::string_view::npos) break;
    body = trim_start(start.substr(close + marks->close.size()));
  }
  const bool open = prompted && !has(prompt.substr(prompt.rfind(marks->open)), marks->close);
  if (open || !prompted) {
    const std::string written = written_thought(thought, *marks, open);
    if (!written.empty()) body = trim_start(body);
    *text += written;
  } else if (!thought.inner.empty()) {
    body = trim_start(body);  // that stood between thought and answer
  }
  *text += body;
  return "";
}

}  // namespace hone::text_spans
