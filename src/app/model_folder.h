// Writing model folders: rounding, and care for what is there.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace hone::app {

// Rounds values once, to nearest with ties to even, to the file type: f64, f32, bf16 or f16.
// Appends to bytes.
void append_rounded(std::span<const double> values, io::FileType type,
                    std::vector<std::byte>& bytes);

// UserError if the folder holds a model already and `overwrite` is off.
void check_output_folder(const std::filesystem::path& folder, bool overwrite);

// The text of a config.json with its type of weights set.
std::string config_with_dtype(const std::string& config_json, const std::string& source,
                              io::FileType type);
// The text of a config.json whose weights are plain.
std::string config_unquantized(const std::string& config_json, const std::string& source);
// The text of a config.json whose linear layers, but for these modules, are FP8 in blocks of 128 x
// 128.
std::string config_fp8(const std::string& config_json, const std::string& source,
                       const std::vector<std::string>& unconverted);
// The text of a config.json that doesn't tie the head to the embedding.
std::string config_untied(const std::string& config_json, const std::string& source);

}  // namespace hone::app
