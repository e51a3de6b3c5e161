// Prompts of many spellings as tokens.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "text/conversation.h"

namespace hone::app {

class PromptReader {
 public:
  // text: where the model has no tokenizer, null; then only token lists can be read.
  PromptReader(const data::TextModel* text, int64_t vocab, const std::string& system_prompt);

  // {"prompt": text} with the tokenizer's own special tokens; a list of messages or {"messages"}
  // through the chat template with the generation prompt; {"tokens": [...]} as they are. UserError
  // at `where`.
  std::vector<int32_t> read(const Json& json, const std::string& where) const;
  // A conversation through the template.
  std::vector<int32_t> chat(const Json& messages, const std::string& where) const;

 private:
  void check_ids(const std::vector<int32_t>& tokens, const std::string& where) const;
  const data::TextModel* text_;
  int64_t vocab_;
  std::optional<ConversationEncoder> encoder_;
};

}  // namespace hone::app
