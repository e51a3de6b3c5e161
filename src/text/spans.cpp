#include "text/spans.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

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

constexpr std::string_view kOpen = "<think>", kClose = "</think>";

// A message's thought and where its answer begins in its content.
struct Thought {
  bool there = false;
  std::string raw;        // what stands between the tags
  std::string inner;      // the same without white space around it
  std::string separator;  // white space behind the closing tag
};

Thought thought_of(const Json& message) {
  Thought t;
  t.separator = "\n\n";
  for (const char* field : {"reasoning_content", "reasoning", "thinking"}) {
    const auto it = message.find(field);
    if (it == message.end() || !it->is_string()) continue;
    t.inner = std::string(trim(it->get_ref<const std::string&>()));
    t.raw = "\n" + t.inner + "\n";
    t.there = !t.inner.empty();
    if (t.there) return t;
  }
  const auto it = message.find("content");
  if (it == message.end() || !it->is_string()) return t;
  const std::string_view content = it->get_ref<const std::string&>();
  const size_t close = content.rfind(kClose);
  if (close == std::string_view::npos) return t;
  std::string_view raw = content.substr(0, close);
  if (const size_t open = raw.find(kOpen); open != std::string_view::npos)
    raw.remove_prefix(open + kOpen.size());
  t.raw = std::string(raw);
  t.inner = std::string(trim(raw));
  t.there = true;
  const std::string_view rest = content.substr(close + kClose.size());
  t.separator = std::string(rest.substr(0, rest.size() - trim_start(rest).size()));
  return t;
}

// How much of both begins alike, ended where `prompt`, a special token or a line ends: what comes
// next is the message's.
size_t common_opening(std::string_view text, std::string_view prompt,
                      const std::vector<ByteRange>& specials) {
  const auto [a, b] = std::mismatch(text.begin(), text.end(), prompt.begin(), prompt.end());
  size_t n = static_cast<size_t>(a - text.begin());
  const auto ends_well = [&](size_t at) {
    if (at == prompt.size() || text[at - 1] == '\n') return true;
    return std::any_of(specials.begin(), specials.end(), [&](const ByteRange& r) {
      return r.end == static_cast<int64_t>(at);
    });
  };
  while (n > 0 && !ends_well(n)) --n;
  return n;
}

}  // namespace

std::string role_of(const Json& message) {
  const auto it = message.find("role");
  return it != message.end() && it->is_string() ? it->get<std::string>() : std::string();
}

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


std::string answer_text(const AnswerTexts& t, const Json& message,
                        const std::vector<ByteRange>& specials, std::string* text) {
  const Thought thought = thought_of(message);
  if (t.through.starts_with(t.before)) {
    const std::string_view body = t.through.substr(t.before.size());
    if (!thought.there || body.find(thought.inner) != std::string_view::npos) {
      *text = std::string(t.through);
      return "";
    }
  }
  // What the messages before it have in common with their rendering alone is theirs; the rest of
  // what opens the turn lies behind.
  const size_t common = common_opening(t.through, t.before, specials);
  if (common < common_opening(t.header, t.before, specials))
    return "the template writes the messages before it differently once it is there";
  std::string_view body = t.through.substr(common);
  const std::string_view opened = trim_end(t.before.substr(common));
  const bool open = opened.ends_with(kOpen);
  *text = std::string(t.before);
  if (thought.there && body.find(thought.inner) == std::string_view::npos) {
    std::string_view raw = thought.raw;
    if (open) {
      // White space that the prompt has written behind the tag is not written again.
      std::string_view written = t.before.substr(common + opened.size());
      while (!written.empty() && !raw.empty() && raw.front() == written.front()) {
        raw.remove_prefix(1);
        written.remove_prefix(1);
      }
    } else {
      *text += kOpen;
    }
    *text += raw;
    *text += kClose;
    *text += thought.separator;
    body = trim_start(body);
  } else if (open && body.find(kClose) == std::string_view::npos) {
    *text += "\n" + std::string(kClose) + "\n\n";
    body = trim_start(body);
  } else if (open) {
    // The template writes the thought, opening included.
    body = trim_start(body);
    if (body.starts_with(kOpen)) body = trim_start(body.substr(kOpen.size()));
  }
  *text += body;
  return "";
}

}  // namespace hone::text_spans
