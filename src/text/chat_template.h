// Chat templates: the Jinja of Hugging Face tokenizers, rendered byte for byte as transformers
// renders it, within limits that a hostile template can't pass.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace hone {

using Json = nlohmann::ordered_json;

struct RenderOptions {
  bool add_generation_prompt = false;
  Json tools = nullptr;      // array of tool schemas, or null
  Json documents = nullptr;  // array, or null
  // More variables a template may read, such as {"enable_thinking": false}; an object. They hide
  // special tokens of the same name.
  Json variables = Json::object();
  // What strftime_now() takes for the time, seconds since 1970; negative: the clock.
  int64_t now = -1;
};

struct Rendered {
  std::string text;
  // The bytes that {% generation %} blocks wrote, ascending; empty where the template has none.
  std::vector<ByteRange> generation;
};

// Immutable and cheap to copy; const methods may be called from many threads at once. The template
// is compiled once.
class ChatTemplate {
 public:
  // From a model folder, in this order: chat_template.jinja (with those of
  // additional_chat_templates), "chat_template" of tokenizer_config.json (a text, or a list of
  // named ones), chat_template.json. Of several the one named default serves, and the one named
  // tool_use conversations with tools; with `name` that one serves all. Special tokens come from
  // the tokenizer.
  // UserError where the folder has no such template or it doesn't parse.
  static ChatTemplate load(const std::string& folder, const Tokenizer& tokenizer,
                           const std::string& name = "");
  // Whether there is one that serves without a name.
  static bool exists(const std::string& folder);
  static std::vector<std::string> names(const std::string& folder);
  static ChatTemplate from_string(
      std::string_view source,
      const std::map<std::string, std::string, std::less<>>& special_tokens);

  // messages: an array of objects, with whatever fields the template reads.
  // UserError: raise_exception() of the template (its text is quoted), an error in it, too many
  // steps, too much output, an include or a file access.
  Rendered render(const Json& messages, const RenderOptions& options = {}) const;

  // Renders several beginnings of one conversation with one conversion of the messages: the first
  // `count` messages, with or without the generation prompt. One result a request.
  struct Prefix {
    int64_t count;
    bool add_generation_prompt;
  };
  struct PrefixResult {
    Rendered rendered;
    std::string error;  // not empty: this one failed, and why
  };
  std::vector<PrefixResult> render_prefixes(const Json& messages, const RenderOptions& options,
                                            std::span<const Prefix> prefixes) const;

  bool has_generation_blocks() const;
  const std::string& source() const;  // of the default template
  std::string tool_use() const;       // source of the one for tools, "" if that is the default

 private:
  struct Impl;
  explicit ChatTemplate(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace hone
