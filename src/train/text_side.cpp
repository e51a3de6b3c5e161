#include "train/text_side.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/files.h"
#include "io/run_folder.h"

namespace hone::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemplate = "chat_template.jinja";
constexpr const char* kToolUse = "additional_chat_templates/tool_use.jinja";
constexpr const char* kGeneration = "generation_config.json";
constexpr uint64_t kMostBytes = uint64_t{16} << 20;

// tool_use: "" where the template serves conversations with tools, too.
void write_template(const fs::path& folder, const std::string& source,
                    const std::string& tool_use) {
  io::write_file_atomically(folder / kTemplate, source);
  std::error_code ignored;
  if (tool_use.empty()) {
    fs::remove(folder / kToolUse, ignored);
    return;
  }
  fs::create_directories((folder / kToolUse).parent_path(), ignored);
  io::write_file_atomically(folder / kToolUse, tool_use);
}

}  // namespace

std::vector<int32_t> end_ids(const models::ModelConfig& config, const std::string& adapter,
                             const data::TextModel& text, const std::vector<int32_t>& turn_ends) {
  if (!text.eos_ids.empty()) return text.eos_ids;
  std::vector<int32_t> ids = config.eos_token_ids;
  const auto add = [&ids](const std::vector<int32_t>& more) {
    for (const int32_t id : more)
      if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  if (!adapter.empty()) add(models::generation_eos_ids(adapter).value_or(std::vector<int32_t>{}));
  if (ids.empty() && text.tokenizer.eos_id()) ids.push_back(*text.tokenizer.eos_id());
  add(text.stop_ids);
  add(turn_ends);
  return ids;
}

void save_text_side(const std::filesystem::path& folder, const std::filesystem::path& base,
                    const data::TextModel& text, const std::vector<int32_t>& end_ids) {
  io::copy_model_files(base, folder, /*with_config=*/false);
  if (text.chat_template)
    write_template(folder, text.chat_template->source(), text.chat_template->tool_use());
  if (end_ids.empty()) return;
  nlohmann::ordered_json config = nlohmann::ordered_json::object();
  const fs::path existing = base / kGeneration;
  if (fs::exists(existing))
    config = nlohmann::ordered_json::parse(io::read_text_file(existing, kMostBytes));
  if (end_ids.size() == 1) {
    config["eos_token_id"] = end_ids[0];
  } else {
    config["eos_token_id"] = end_ids;
  }
  io::write_file_atomically(folder / kGeneration, config.dump(2) + "\n");
}

void carry_text_side(const fs::path& adapter, const fs::path& to) {
  const auto has = [&](const char* name) {
    std::error_code ignored;
    return fs::is_regular_file(adapter / name, ignored);
  };
  if (has(kGeneration)) io::copy_file_atomically(adapter / kGeneration, to / kGeneration);
  if (has(kTemplate))
    write_template(to, io::read_text_file(adapter / kTemplate, kMostBytes),
                   has(kToolUse) ? io::read_text_file(adapter / kToolUse, kMostBytes) : "");
}

}  // namespace hone::train
