#include "train/text_side.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/files.h"

namespace hone::train {

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
  if (text.chat_template)
    io::write_file_atomically(folder / "chat_template.jinja", text.chat_template->source());
  if (end_ids.empty()) return;
  nlohmann::ordered_json config = nlohmann::ordered_json::object();
  const std::filesystem::path existing = base / "generation_config.json";
  if (std::filesystem::exists(existing))
    config = nlohmann::ordered_json::parse(io::read_text_file(existing, uint64_t{16} << 20));
  if (end_ids.size() == 1) {
    config["eos_token_id"] = end_ids[0];
  } else {
    config["eos_token_id"] = end_ids;
  }
  io::write_file_atomically(folder / "generation_config.json", config.dump(2) + "\n");
}

}  // namespace hone::train
