// What a result says about texts: which tokens end an answer, and which template it was trained
// with.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "models/config.h"

namespace hone::train {

// Tokens that end an answer: --eos_token's alone, or those of generation_config.json (else
// config.json, else the tokenizer), of the adapter's folder (may be ""), of a
// conversation_template, and turn_ends (a data set's, or a template's).
std::vector<int32_t> end_ids(const models::ModelConfig& config, const std::string& adapter,
                             const data::TextModel& text, const std::vector<int32_t>& turn_ends);

// Writes what is read beside the weights, as PEFT and TRL do with adapters, too: the base's
// tokenizer files, generation_config.json (the base's, with eos_token_id) and, where there is a
// chat template, chat_template.jinja, with one for tools in additional_chat_templates. Whole or not
// at all, file by file.
void save_text_side(const std::filesystem::path& folder, const std::filesystem::path& base,
                    const data::TextModel& text, const std::vector<int32_t>& end_ids);

// Puts an adapter's own generation_config.json and templates in the place of its base's, where a
// model is made of both.
void carry_text_side(const std::filesystem::path& adapter, const std::filesystem::path& to);

}  // namespace hone::train
