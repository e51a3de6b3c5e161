// Preference records: a prompt, a better and a worse answer.
#pragma once

#include <string>
#include <vector>

#include "data/format.h"

namespace hone::data {

// {"prompt", "chosen", "rejected"}, texts or messages; without a prompt both sides begin with it:
// of messages their common beginning, of texts what stands before the answers of the last
// "\n\nAssistant:" that they share, else their common beginning up to a word. The prompt may be
// called "context", "messages" or "conversations", or be an "instruction" with an "input". A text
// answer to messages is what the assistant says. RecordError.
void interpret_pair(const Json& json, const FormatRules& rules, Record& record);

// A record of tokens as a pair: two sequences.
void check_pair_tokens(const Record& record);

// Fields that a pair is read from.
std::vector<std::string> pair_fields();

// The tokens of both sides one behind the other, two sequences. RecordError if an answer is several
// sequences.
TokenizedText join_pair(TokenizedText chosen, TokenizedText rejected);

// A pair of which one side has nothing to train, or whose sides are equal, is not trained.
void drop_useless_pair(TokenizedText& text);
bool equal_sides(const std::vector<int32_t>& tokens, const std::vector<int32_t>& lengths);

}  // namespace hone::data
