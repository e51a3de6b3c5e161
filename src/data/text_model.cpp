// The text side of a model folder.
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "data/dataset.h"
#include "data/source.h"

namespace hone::data {
namespace {

namespace fs = std::filesystem;

std::string read_small_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool is_jinja(const fs::path& path) {
  const std::string ending = path.extension().string();
  return ending == ".jinja" || ending == ".jinja2" || ending == ".j2";
}

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// One of the model's own, by its name.
ChatTemplate named_template(const std::string& folder, const std::string& name,
                            const Tokenizer& tokenizer) {
  const std::vector<std::string> names = ChatTemplate::names(folder);
  if (std::find(names.begin(), names.end(), name) == names.end())
    user_error("template", "--conversation_template {} does not exist{}", name,
               names.size() > 1 ? fmt::format(", and the model's own templates are named {}",
                                              fmt::join(names, ", "))
                                : "");
  return ChatTemplate::load(folder, tokenizer, name);
}

ChatTemplate jinja_file(const std::string& path, const Tokenizer& tokenizer) {
  return ChatTemplate::from_string(read_small_file(path), tokenizer.special_tokens());
}

// A value as it is written on a command line: JSON where it is that, else a text.
Json loose_value(const std::string& text) {
  if (text == "True" || text == "False") return text == "True";
  Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json(text) : value;
}

Json parse_kwargs(const std::string& text) {
  if (text.find_first_not_of(" \t\n") == std::string::npos) return Json::object();
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_object()) return json;
  Json out = Json::object();
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string pair = text.substr(begin, end - begin);
    const size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0)
      user_error("flags",
                 "--template_kwargs {}: expected a JSON object such as {{\"enable_thinking\": "
                 "false}}, or enable_thinking=false",
                 text);
    out[pair.substr(0, equals)] = loose_value(pair.substr(equals + 1));
    begin = end + 1;
  }
  return out;
}

// UserError for a variable that no template names, so that it couldn't act.
void check_variables(const TextModel& model) {
  for (const auto& [name, value] : model.variables.items()) {
    const bool read =
        model.chat_template && (model.chat_template->source().find(name) != std::string::npos ||
                                model.chat_template->tool_use().find(name) != std::string::npos);
    if (!read)
      user_error("flags",
                 "--template_kwargs: the chat template has no variable \"{}\"; leave it out",
                 name.substr(0, 100));
  }
}

// A token by its text or its id.
int32_t token_id(const Tokenizer& tokenizer, const std::string& word) {
  if (const auto id = tokenizer.id_of(word)) return *id;
  const bool number = !word.empty() && word.size() < 10 &&
                      word.find_first_not_of("0123456789") == std::string::npos;
  if (number && tokenizer.token_of(std::stoi(word))) return std::stoi(word);
  user_error("flags", "--eos_token {}: the tokenizer has no token of this text or id", word);
}

}  // namespace

std::string TextModel::eos() const {
  if (!eos_ids.empty()) return tokenizer.token_bytes(eos_ids[0]);
  return tokenizer.eos_token().value_or("");
}

std::string TextModel::no_template() const {
  if (template_names.empty())
    return "the model has no chat template; give one with --conversation_template FILE";
  return fmt::format(
      "the model's chat templates are named {}, and none is the default; choose one with "
      "--conversation_template {}",
      fmt::join(template_names, ", "), template_names[0]);
}

TextModel TextModel::load(const std::string& folder, const TextModelOptions& options) {
  TextModel model{.tokenizer = Tokenizer::load(folder)};
  Fingerprint fingerprint;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "chat_template.jinja", "chat_template.json"}) {
    fingerprint.add_text(name);
    fingerprint.add_text(read_small_file(fs::path(folder) / name));
  }
  const std::string& other = options.conversation_template;
  const fs::path of_adapter = fs::path(options.adapter) / "chat_template.jinja";
  std::error_code ignored;
  if (!other.empty() && is_folder(other)) {
    model.chat_template = ChatTemplate::load(other, model.tokenizer);
  } else if (!other.empty() && !fs::exists(other, ignored)) {
    model.chat_template = named_template(folder, other, model.tokenizer);
  } else if (!other.empty() && is_jinja(other)) {
    model.chat_template = jinja_file(other, model.tokenizer);
  } else if (!other.empty()) {
    const ConversationTemplateFile file = load_conversation_template(other);
    const bool of_folder = file.chat_template.size() < 4096 &&
                           file.chat_template.find('{') == std::string::npos &&
                           is_folder(file.chat_template);
    model.chat_template =
        of_folder ? ChatTemplate::load(file.chat_template, Tokenizer::load(file.chat_template))
                  : ChatTemplate::from_string(file.chat_template, model.tokenizer.special_tokens());
    model.system_message = file.system_message;
    model.stop_ids = file.stop_ids;
    fingerprint.add_text(file.system_message);
  } else if (!options.adapter.empty() && fs::is_regular_file(of_adapter, ignored)) {
    model.chat_template = ChatTemplate::load(options.adapter, model.tokenizer);
  } else if (ChatTemplate::exists(folder)) {
    model.chat_template = ChatTemplate::load(folder, model.tokenizer);
  } else {
    model.template_names = ChatTemplate::names(folder);
  }
  if (model.chat_template && (!other.empty() || !options.adapter.empty()))
    fingerprint.add_text(model.chat_template->source());
  model.variables = parse_kwargs(options.template_kwargs);
  check_variables(model);
  for (const std::string& word : options.eos_token)
    model.eos_ids.push_back(token_id(model.tokenizer, word));
  if (!model.eos_ids.empty()) fingerprint.add_text(model.eos());
  model.fingerprint = fingerprint.value();
  return model;
}

}  // namespace hone::data
