// The text side of a model folder.
#include <filesystem>
#include <fstream>

#include "data/dataset.h"
#include "data/source.h"

namespace hone::data {
namespace {

namespace fs = std::filesystem;

std::string read_small_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

TextModel TextModel::load(const std::string& folder, const std::string& conversation_template) {
  TextModel model{.tokenizer = Tokenizer::load(folder)};
  Fingerprint fingerprint;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "chat_template.jinja", "chat_template.json"}) {
    fingerprint.add_text(name);
    fingerprint.add_text(read_small_file(fs::path(folder) / name));
  }
  if (!conversation_template.empty()) {
    const ConversationTemplateFile file = load_conversation_template(conversation_template);
    std::error_code ignored;
    const bool is_folder = file.chat_template.size() < 4096 &&
                           file.chat_template.find('{') == std::string::npos &&
                           fs::is_directory(file.chat_template, ignored);
    if (is_folder) {
      const Tokenizer other = Tokenizer::load(file.chat_template);
      model.chat_template = ChatTemplate::load(file.chat_template, other);
    } else {
      model.chat_template =
          ChatTemplate::from_string(file.chat_template, model.tokenizer.special_tokens());
    }
    model.system_message = file.system_message;
    model.stop_ids = file.stop_ids;
    fingerprint.add_text(model.chat_template->source());
    fingerprint.add_text(file.system_message);
  } else if (ChatTemplate::exists(folder)) {
    model.chat_template = ChatTemplate::load(folder, model.tokenizer);
  }
  model.fingerprint = fingerprint.value();
  return model;
}

}  // namespace hone::data
