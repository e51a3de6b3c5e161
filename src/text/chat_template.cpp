#include "text/chat_template.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "text/ffi.h"

namespace hone {
namespace {

using text_ffi::Reader;
using text_ffi::Result;
using text_ffi::slice;

// strftime_now() of templates: local time, as Python's datetime.now().
size_t write_time(int64_t now, const uint8_t* format, size_t format_len, uint8_t* out, size_t cap) {
  const std::time_t seconds = now;
  std::tm parts{};
  if (localtime_r(&seconds, &parts) == nullptr || format_len == 0) return 0;
  const std::string pattern(reinterpret_cast<const char*>(format), format_len);
  return std::strftime(reinterpret_cast<char*>(out), cap, pattern.c_str(), &parts);
}

std::string dump(const Json& json) {
  try {
    return json.dump();
  } catch (const nlohmann::json::exception&) {
    user_error("template", "a conversation holds text that is not valid UTF-8");
  }
}

struct Compiled {
  explicit Compiled(std::string_view text) : source(text) {
    Result result;
    int32_t generation = 0;
    if (hft_template_new(slice(text), &handle, &generation, result.out()) != 0) {
      user_error("template", "the chat template can't be read: {}", result.view());
    }
    has_generation = generation != 0;
  }
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() {
    if (handle != nullptr) hft_template_free(handle);
  }

  std::string source;
  HftTemplate* handle = nullptr;
  bool has_generation = false;
};

Json parse_file(const std::string& text, const std::string& path) {
  // A nesting no configuration has, and that a recursive parser could run out of stack on.
  constexpr int kMostDepth = 200;
  int depth = 0;
  for (const char c : text) {
    if (c == '{' || c == '[') depth++;
    if (c == '}' || c == ']') depth--;
    if (depth > kMostDepth) user_error("template", "{} is nested too deeply", path);
  }
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) user_error("template", "{} is not valid JSON", path);
  if (!json.is_object()) user_error("template", "{} must hold a JSON object", path);
  return json;
}

using Sources = std::map<std::string, std::string>;  // name to text

constexpr const char* kDefault = "default";
constexpr const char* kToolUse = "tool_use";

// "chat_template" of a configuration: a text, or a list or an object of named texts.
Sources named_templates(const Json& value, const std::string& path) {
  Sources sources;
  auto take = [&](const std::string& name, const Json& text) {
    if (!text.is_string()) user_error("template", "{}: template \"{}\" is not a text", path, name);
    sources[name] = text.get<std::string>();
  };
  if (value.is_string()) {
    take(kDefault, value);
  } else if (value.is_array()) {
    for (const Json& entry : value) {
      if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() ||
          !entry.contains("template")) {
        user_error("template", "{}: an entry of chat_template is not {{\"name\", \"template\"}}",
                   path);
      }
      take(entry["name"].get<std::string>(), entry["template"]);
    }
  } else if (value.is_object()) {
    for (const auto& [name, text] : value.items()) take(name, text);
  } else {
    user_error("template", "{}: chat_template is neither a text nor a list", path);
  }
  return sources;
}

// chat_template.jinja and the files of additional_chat_templates.
Sources jinja_templates(const std::string& folder) {
  namespace fs = std::filesystem;
  Sources sources;
  std::string text;
  if (!text_ffi::read_file_if_exists(folder + "/chat_template.jinja", &text)) return sources;
  sources[kDefault] = text;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder + "/additional_chat_templates", ignored)) {
    const fs::path& path = entry.path();
    if (path.extension() == ".jinja" && text_ffi::read_file_if_exists(path.string(), &text))
      sources.emplace(path.stem().string(), text);
  }
  return sources;
}

Sources find_sources(const std::string& folder) {
  Sources sources = jinja_templates(folder);
  std::string text;
  for (const char* name : {"/tokenizer_config.json", "/chat_template.json"}) {
    if (!sources.empty()) break;
    const std::string path = folder + name;
    if (!text_ffi::read_file_if_exists(path, &text)) continue;
    const Json config = parse_file(text, path);
    const auto it = config.find("chat_template");
    if (it != config.end() && !it->is_null()) sources = named_templates(*it, path);
  }
  return sources;
}

// The one that serves where none is named; end() if there is none, or that would be a guess.
Sources::const_iterator default_of(const Sources& sources) {
  return sources.size() == 1 ? sources.begin() : sources.find(kDefault);
}

}  // namespace

struct ChatTemplate::Impl {
  std::unique_ptr<Compiled> base;
  std::unique_ptr<Compiled> tool_use;  // may be null
  Json special_tokens = Json::object();
};

bool ChatTemplate::exists(const std::string& folder) {
  const Sources sources = find_sources(folder);
  return default_of(sources) != sources.end();
}

std::vector<std::string> ChatTemplate::names(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& [name, text] : find_sources(folder)) out.push_back(name);
  return out;
}

ChatTemplate ChatTemplate::load(const std::string& folder, const Tokenizer& tokenizer,
                                const std::string& name) {
  const Sources sources = find_sources(folder);
  const auto chosen = name.empty() ? default_of(sources) : sources.find(name);
  if (chosen == sources.end()) {
    user_error("template",
               "{} has no chat template{} (chat_template.jinja, or chat_template in "
               "tokenizer_config.json); give one with --conversation_template, or train on plain "
               "text",
               folder, name.empty() ? "" : fmt::format(" named {}", name));
  }
  auto impl = std::make_shared<Impl>();
  impl->base = std::make_unique<Compiled>(chosen->second);
  const auto tool_use = sources.find(kToolUse);
  if (name.empty() && tool_use != sources.end() && tool_use != chosen)
    impl->tool_use = std::make_unique<Compiled>(tool_use->second);
  for (const auto& [role, token] : tokenizer.special_tokens()) impl->special_tokens[role] = token;
  return ChatTemplate(std::move(impl));
}

ChatTemplate ChatTemplate::from_string(
    std::string_view source,
    const std::map<std::string, std::string, std::less<>>& special_tokens) {
  auto impl = std::make_shared<Impl>();
  impl->base = std::make_unique<Compiled>(source);
  for (const auto& [role, token] : special_tokens) impl->special_tokens[role] = token;
  return ChatTemplate(std::move(impl));
}

std::vector<ChatTemplate::PrefixResult> ChatTemplate::render_prefixes(
    const Json& messages, const RenderOptions& options, std::span<const Prefix> prefixes) const {
  if (!messages.is_array() ||
      !std::all_of(messages.begin(), messages.end(), [](const Json& m) { return m.is_object(); })) {
    user_error("template",
               "a conversation must be a list of objects with \"role\" and \"content\"");
  }
  Json variables = impl_->special_tokens;
  variables["tools"] = options.tools;
  variables["documents"] = options.documents;
  if (options.variables.is_object()) {
    for (const auto& [name, value] : options.variables.items()) variables[name] = value;
  }
  std::vector<HftPrefix> wanted;
  wanted.reserve(prefixes.size());
  for (const Prefix& prefix : prefixes) {
    HONE_CHECK(prefix.count >= 0 && prefix.count <= static_cast<int64_t>(messages.size()));
    wanted.push_back({static_cast<uint64_t>(prefix.count), prefix.add_generation_prompt});
  }
  const bool use_tools = !options.tools.is_null() && impl_->tool_use != nullptr;
  const Compiled& compiled = use_tools ? *impl_->tool_use : *impl_->base;
  const int64_t now = options.now >= 0 ? options.now : static_cast<int64_t>(std::time(nullptr));
  const std::string messages_text = dump(messages);
  const std::string variables_text = dump(variables);
  Result result;
  if (hft_template_render(compiled.handle, slice(messages_text), slice(variables_text), now,
                          &write_time, wanted.data(), wanted.size(), result.out()) != 0) {
    user_error("template", "the chat template can't render a conversation: {}", result.view());
  }
  Reader reader(result.view());
  std::vector<PrefixResult> results(prefixes.size());
  for (PrefixResult& r : results) {
    const bool ok = reader.u64() != 0;
    const std::string_view text = reader.take(reader.u64());
    (ok ? r.rendered.text : r.error).assign(text);
    r.rendered.generation.resize(reader.u64());
    for (ByteRange& range : r.rendered.generation) {
      range.begin = static_cast<int64_t>(reader.u64());
      range.end = static_cast<int64_t>(reader.u64());
    }
  }
  return results;
}

Rendered ChatTemplate::render(const Json& messages, const RenderOptions& options) const {
  const Prefix whole{static_cast<int64_t>(messages.size()), options.add_generation_prompt};
  PrefixResult result = std::move(render_prefixes(messages, options, {&whole, 1})[0]);
  if (!result.error.empty()) {
    user_error("template", "the chat template can't render a conversation: {}", result.error);
  }
  return std::move(result.rendered);
}

bool ChatTemplate::has_generation_blocks() const { return impl_->base->has_generation; }
const std::string& ChatTemplate::source() const { return impl_->base->source; }
std::string ChatTemplate::tool_use() const {
  return impl_->tool_use != nullptr ? impl_->tool_use->source : "";
}

}  // namespace hone
