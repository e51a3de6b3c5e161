// Where an assistant's answer lies in what a chat template wrote, and what an answer is where the
// template would write it otherwise.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace hone::text_spans {

// "" if the message has none.
std::string role_of(const Json& message);
std::string content_of(const Json& message);  // "" if it isn't a text

// One assistant turn, and what rendering the conversation up to it gave.
struct Turn {
  const ChatTemplate::PrefixResult* before;   // the messages before, with the generation prompt
  const ChatTemplate::PrefixResult* through;  // up to and with this turn; null: the whole text
};

// The span of a turn's answer in `text`: its content and the special token that ends it. specials:
// where text has special tokens, ascending. Returns "" where it was found, else why it can't be.
std::string find_span(const std::string& text, const std::vector<ByteRange>& specials,
                      const Json& message, const Turn& turn, ByteRange* span);

// What stands for a turn where the conversation ends with it.
struct AnswerTexts {
  std::string_view header;   // the messages before it, without the generation prompt
  std::string_view before;   // the same with the generation prompt
  std::string_view through;  // with the turn
};

// Whether what was written for a message has its thought: reasoning_content (or reasoning,
// thinking), or what stands before </think> (or another closing mark) in its content. True for a
// message without one.
bool keeps_thought(std::string_view written, const Json& message);

// Whether a message's words are missing in the span that was found for it: it has some, calls no
// tools, and behind its thought there are special tokens and white space alone.
bool lacks_answer(std::string_view text, const ByteRange& span,
                  const std::vector<ByteRange>& specials, const Json& message);

// What a turn lacks at its end: the end of each <｜...▁begin｜> that has none. (DeepSeek's
// templates leave the list open that holds a single call.)
std::string missing_ends(std::string_view written);

// The text of a conversation that ends with this answer as a model has to write it: `before`, then
// what the template writes for the message, with the message's own thought where the template
// leaves it out. A thought that `before` has opened is not opened again, and closed if the message
// has none; after one that it has closed (enable_thinking false) none is written. Returns "" where
// that can be told, else why not. last_content: of the message before, "" if it has none.
// template_source tells how it marks thoughts.
std::string answer_text(const AnswerTexts& texts, const Json& message,
                        std::string_view last_content, std::string_view template_source,
                        std::string* text);

}  // namespace hone::text_spans
