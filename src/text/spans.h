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

// The text of a conversation that ends with this answer as a model has to write it: `before`, then
// what the template writes for the message, with the message's own thought (reasoning_content, or
// what stands before </think> in its content) where the template leaves it out. A thought that
// `before` has opened is not opened again, and closed if the message has none. Returns "" where
// that can be told, else why not. specials: where `through` has special tokens.
std::string answer_text(const AnswerTexts& texts, const Json& message,
                        const std::vector<ByteRange>& specials, std::string* text);

}  // namespace hone::text_spans
