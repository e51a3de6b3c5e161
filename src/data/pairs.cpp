#include "data/pairs.h"

#include <algorithm>
#include <array>

#include "data/messages.h"
#include "data/record_json.h"

namespace hone::data {
namespace {

constexpr std::string_view kAssistantMark = "\n\nAssistant:";
// Names of a list of messages that is the prompt.
constexpr std::array<const char*, 4> kPromptLists = {"prompt", "context", "messages",
                                                     "conversations"};

const Json* present(const Json& json, const char* key) {
  const Json* value = find(json, key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

const Json& side_of(const Json& json, const char* key) {
  const Json* value = present(json, key);
  if (value == nullptr)
    fail("found {}; expected a pair: an object with \"chosen\" and \"rejected\"",
         json.is_object() ? "the keys " + keys_of(json) : what_is(json));
  return *value;
}

Json messages_of(const Json& value, std::string_view key, const FormatRules& rules) {
  Json messages = Json::array();
  Record unused;
  add_messages(as_message_list(value, key), {"role", "content"}, rules, std::nullopt, messages,
               unused);
  return messages;
}

// An answer: what the assistant says at last, perhaps after what led to it.
Json answer_of(const Json& value, const char* key, const FormatRules& rules) {
  Json answer = value.is_string() ? Json::array({message("assistant", value)})
                                  : messages_of(value, key, rules);
  if (answer.empty() || answer.back()["role"] != "assistant")
    fail("\"{}\" is {}; expected messages that end with one of the assistant", key, what_is(value));
  return answer;
}

Record chat(const Json& prompt, const Json& answer, const Json& json) {
  Record record;
  record.format = DatasetFormat::kPairs;
  Json messages = prompt;
  for (const Json& m : answer) messages.push_back(m);
  // Trained is the last answer alone, which is that of --train_on last.
  finish_chat(record, std::move(messages), json, "tools");
  return record;
}

Record plain(std::string prompt, std::string completion) {
  Record record;
  record.kind = Record::Kind::kPromptCompletion;
  record.format = DatasetFormat::kPairs;
  record.prompt = std::move(prompt);
  record.completion = std::move(completion);
  return record;
}

// Where the answers of two texts begin.
size_t answers_begin(const std::string& a, const std::string& b) {
  const auto common =
      static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  const size_t mark = std::string_view(a).substr(0, common).rfind(kAssistantMark);
  if (mark != std::string_view::npos) return mark + kAssistantMark.size();
  // Not inside a word: a blank belongs to the word behind it.
  size_t at = common;
  const auto blank = [](char c) { return c == ' ' || c == '\n' || c == '\t'; };
  const bool inside = (at < a.size() && !blank(a[at])) || (at < b.size() && !blank(b[at])) ||
                      (at == a.size() && at == b.size());
  while (inside && at > 0 && !blank(a[at - 1])) --at;
  while (inside && at > 0 && blank(a[at - 1]) && a[at - 1] == ' ') --at;
  return at;
}

void interpret_texts(const std::string& chosen, const std::string& rejected, Record& record) {
  const size_t at = answers_begin(chosen, rejected);
  record.sides = {plain(chosen.substr(0, at), chosen.substr(at)),
                  plain(rejected.substr(0, at), rejected.substr(at))};
}

// The prompt's messages; null: there is none, or it is a text for texts.
Json prompt_of(const Json& json, const FormatRules& rules) {
  Json prompt = Json::array();
  set_system(prompt, optional_string(json, "system"));
  for (const char* key : kPromptLists) {
    const Json* value = present(json, key);
    if (value == nullptr) continue;
    if (value->is_string()) {
      prompt.push_back(message("user", *value));
    } else {
      for (Json& m : messages_of(*value, key, rules)) prompt.push_back(std::move(m));
    }
    return prompt;
  }
  if (const Json* instruction = present(json, "instruction")) {
    std::string user = string_of(*instruction, "instruction");
    const std::string input = optional_string(json, "input");
    if (!input.empty()) user += (user.empty() ? "" : "\n") + input;
    prompt.push_back(message("user", std::move(user)));
  }
  return prompt;
}

}  // namespace

std::vector<std::string> pair_fields() {
  return {"prompt",        "chosen",      "rejected", "context", "messages",
          "conversations", "instruction", "input",    "system",  "tools"};
}

void interpret_pair(const Json& json, const FormatRules& rules, Record& record) {
  record.kind = Record::Kind::kPair;
  const Json &chosen = side_of(json, "chosen"), &rejected = side_of(json, "rejected");
  if (chosen.is_string() != rejected.is_string())
    fail("\"chosen\" is {} and \"rejected\" is {}; expected two of a kind", what_is(chosen),
         what_is(rejected));
  const Json* text = present(json, "prompt");
  if (chosen.is_string() && present(json, "system") == nullptr) {
    if (text != nullptr && text->is_string()) {
      record.sides = {plain(*text, chosen), plain(*text, rejected)};
      return;
    }
    const bool implicit =
        std::none_of(kPromptLists.begin(), kPromptLists.end(),
                     [&](const char* key) { return present(json, key) != nullptr; }) &&
        present(json, "instruction") == nullptr;
    if (implicit) return interpret_texts(chosen, rejected, record);
  }
  Json prompt = prompt_of(json, rules);
  Json better = answer_of(chosen, "chosen", rules), worse = answer_of(rejected, "rejected", rules);
  // Both sides may begin with the prompt, told beside them or not.
  size_t common = 0;
  while (common + 1 < std::min(better.size(), worse.size()) && better[common] == worse[common])
    ++common;
  const Json shared(better.begin(), better.begin() + static_cast<ptrdiff_t>(common));
  if (common > 0) {
    const bool repeated = prompt.size() <= common && !prompt.empty() &&
                          std::equal(prompt.rbegin(), prompt.rend(), shared.rbegin());
    if (prompt.empty() || repeated) {
      prompt = shared;
    } else {
      for (const Json& m : shared) prompt.push_back(m);
    }
    better.erase(better.begin(), better.begin() + static_cast<ptrdiff_t>(common));
    worse.erase(worse.begin(), worse.begin() + static_cast<ptrdiff_t>(common));
  }
  if (prompt.empty())
    fail(
        "the pair has no prompt: there is no \"prompt\", and \"chosen\" and \"rejected\" begin "
        "differently");
  record.sides = {chat(prompt, better, json), chat(prompt, worse, json)};
}

void check_pair_tokens(const Record& record) {
  if (record.lengths.size() != 2)
    fail(
        "these are tokens of {} sequences; expected a pair, with \"sequences\": [length of the "
        "chosen one, length of the rejected one]",
        std::max<size_t>(1, record.lengths.size()));
}

TokenizedText join_pair(TokenizedText chosen, TokenizedText rejected) {
  for (const TokenizedText* side : {&chosen, &rejected})
    if (side->lengths.size() > 1)
      fail("the {} answer becomes {} sequences with this chat template; expected one",
           side == &chosen ? "chosen" : "rejected", side->lengths.size());
  TokenizedText out = std::move(chosen);
  out.lengths = {static_cast<int32_t>(out.tokens.size()),
                 static_cast<int32_t>(rejected.tokens.size())};
  out.text += "\n" + rejected.text;
  out.tokens.insert(out.tokens.end(), rejected.tokens.begin(), rejected.tokens.end());
  out.trained.insert(out.trained.end(), rejected.trained.begin(), rejected.trained.end());
  return out;
}

bool equal_sides(const std::vector<int32_t>& tokens, const std::vector<int32_t>& lengths) {
  return lengths.size() == 2 && lengths[0] == lengths[1] &&
         std::equal(tokens.begin(), tokens.begin() + lengths[0], tokens.begin() + lengths[0]);
}

void drop_useless_pair(TokenizedText& text) {
  const auto trained = [&](ptrdiff_t begin, ptrdiff_t end) {
    return std::find(text.trained.begin() + begin, text.trained.begin() + end, uint8_t{1}) !=
           text.trained.begin() + end;
  };
  const bool whole = text.lengths.size() == 2 && trained(0, text.lengths[0]) &&
                     trained(text.lengths[0], text.lengths[0] + text.lengths[1]);
  if (whole && !equal_sides(text.tokens, text.lengths)) return;
  std::fill(text.trained.begin(), text.trained.end(), uint8_t{0});
}

}  // namespace hone::data
