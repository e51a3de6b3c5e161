// From a conversation to tokens and to which of them are trained.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text/tool_form.h"

namespace hone {

enum class TrainOn {
  kAssistant,  // every assistant turn
  kLast,       // the last assistant turn only
  kAll,        // every token but the first
};
// "assistant", "last", "all"; else UserError.
TrainOn parse_train_on(std::string_view name);

struct TokenizedText {
  std::string text;
  std::vector<int32_t> tokens;
  // trained[t] = 1: token t is a target, predicted from the tokens before it. The first token of a
  // sequence is none.
  std::vector<uint8_t> trained;
  // Several sequences, one behind the other: their lengths. Empty: one.
  std::vector<int32_t> lengths;
};

// A template, the tokenizer and the rule for the mask. Immutable; encode may be called from many
// threads at once.
//
// The mask: an assistant span starts where the rendering of the messages before the turn, with the
// generation prompt, ends; it closes after the first special token that follows the content (the
// end of turn, trained), so neither the turn's header nor whitespace after the stop is trained.
// Where the template has {% generation %} blocks they are the spans. The whole text is tokenised
// once; a token is trained if all its bytes lie in a span.
//
// A template that writes earlier turns differently later, or opens an answer otherwise than it
// writes it, allows no such mask. Then each answer is a sequence of its own, rendered as it is when
// it is generated (text/spans.h), and trained alone.
class ConversationEncoder {
 public:
  struct Options {
    TrainOn train_on = TrainOn::kAssistant;
    // Put before conversations that don't start with a system message; empty: nothing.
    std::string system_prompt;
    RenderOptions render;  // tools given by a conversation go before these
  };
  ConversationEncoder(Tokenizer tokenizer, ChatTemplate chat_template, Options options);

  // messages: an array of {"role", "content", ...}, or an object {"messages": [...], "tools",
  // "documents"}. add_generation_prompt: for conversations that end with a user turn, to answer
  // them. UserError where the template makes an exact mask impossible (earlier turns change as
  // the conversation grows, or the generation prompt isn't the beginning of the turn); it names
  // the --train_on that works.
  TokenizedText encode(const Json& messages, bool add_generation_prompt = false) const;
  // The rendered text alone, no tokens.
  std::string render(const Json& messages, bool add_generation_prompt = false) const;

  // The special tokens that end answers: as the template writes a plain conversation (found on
  // construction), and those at the ends of a text's trained runs. May be empty.
  const std::vector<int32_t>& turn_ends() const { return turn_end_ids_; }
  std::vector<int32_t> trained_ends(const TokenizedText& text) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const ChatTemplate& chat_template() const { return template_; }
  const Options& options() const { return options_; }

 private:
  struct Prepared;
  Prepared prepare(const Json& messages, bool add_generation_prompt) const;
  TokenizedText encode_by_answer(const Prepared& prepared, const std::vector<int64_t>& assistants,
                                 const std::string& why) const;
  // Returns "", or why it can't be.
  std::string append_answer(std::string text, const ChatTemplate::PrefixResult& before,
                            const Json& message, TokenizedText* out) const;
  void append_sequence(const std::string& text, const std::vector<ByteRange>& spans,
                       TokenizedText* out) const;
  bool close(const std::vector<ByteRange>& specials, ByteRange* span, std::string* text) const;
  void find_turn_ends();

  ToolForm tool_form_;
  bool wants_parts_ = false;
  std::string turn_end_;  // "" where none was found
  std::vector<int32_t> turn_end_ids_;
  Tokenizer tokenizer_;
  ChatTemplate template_;
  Options options_;
};

// Plain text for continued pre-training, with the tokenizer's own special tokens: every token but
// the first is trained. eos: put behind it unless it ends with it; may be "".
TokenizedText encode_plain_text(const Tokenizer& tokenizer, std::string text, std::string_view eos);

// Colossal-AI's conversation_template JSON: {"chat_template": Jinja text (or a model folder),
// "system_message": text or null, "stop_ids": [ids], "end_of_assistant": text}.
struct ConversationTemplateFile {
  std::string chat_template;
  std::string system_message;  // "" = none
  std::vector<int32_t> stop_ids;
  std::string end_of_assistant;
};
// UserError: missing file, not such JSON, an id below 0.
ConversationTemplateFile load_conversation_template(const std::string& path);

}  // namespace hone
