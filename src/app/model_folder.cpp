#include "app/model_folder.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

// The nearest number of `precision` bits whose unit is at least 2^least; exact in double.
double rounded(double value, int precision, int least) {
  if (value == 0 || !std::isfinite(value)) return value;
  int exponent = 0;
  std::frexp(value, &exponent);
  const int unit = std::max(exponent - precision, least);
  return std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
}

uint16_t half_bits(double value) {
  const double r = rounded(value, 11, -24);
  const auto sign = static_cast<uint16_t>(std::signbit(r) ? 0x8000 : 0);
  const double a = std::fabs(r);
  if (std::isnan(r)) return 0x7e00;
  if (a >= 65536) return sign | 0x7c00;
  if (a < 0x1p-14) return sign | static_cast<uint16_t>(a * 0x1p24);
  int exponent = 0;
  const double m = std::frexp(a, &exponent);  // in [0.5, 1)
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + static_cast<int>(m * 2048) - 1024);
}

uint16_t bfloat_bits(double value) {
  // Exact in float: eight bits, with float's exponents; beyond them infinity.
  return bf16(static_cast<float>(rounded(value, 8, -133))).bits;
}

template <class T>
void append(T value, std::vector<std::byte>& bytes) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

}  // namespace

void append_rounded(std::span<const double> values, io::FileType type,
                    std::vector<std::byte>& bytes) {
  bytes.reserve(bytes.size() + values.size() * io::file_type_size(type));
  for (const double v : values) {
    switch (type) {
      case io::FileType::f64:
        append(v, bytes);
        break;
      case io::FileType::f32:
        append(static_cast<float>(v), bytes);
        break;
      case io::FileType::bf16:
        append(bfloat_bits(v), bytes);
        break;
      case io::FileType::f16:
        append(half_bits(v), bytes);
        break;
      default:
        HONE_CHECK(false, "not a type of weights");
    }
  }
}

void check_output_folder(const fs::path& folder, bool overwrite) {
  if (folder.empty()) user_error("flags", "no output was given; use --output DIR");
  std::error_code code;
  if (fs::exists(folder, code) && !fs::is_directory(folder, code))
    user_error("output", "{} is a file; give a folder", folder.string());
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (fs::exists(folder / name, code) && !overwrite)
      user_error("output", "{} holds a model already; give another folder, or --overwrite",
                 folder.string());
  }
}

std::string config_with_dtype(const std::string& config_json, const std::string& source,
                              io::FileType type) {
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(config_json, nullptr, false);
  if (!config.is_object()) user_error("config", "{} is not a JSON object", source);
  const char* name = type == io::FileType::bf16  ? "bfloat16"
                     : type == io::FileType::f16 ? "float16"
                     : type == io::FileType::f64 ? "float64"
                                                 : "float32";
  const bool new_spelling = config.contains("dtype");
  if (new_spelling) config["dtype"] = name;
  if (!new_spelling || config.contains("torch_dtype")) config["torch_dtype"] = name;
  return config.dump(2) + "\n";
}

std::string config_unquantized(const std::string& config_json, const std::string& source) {
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(config_json, nullptr, false);
  if (!config.is_object()) user_error("config", "{} is not a JSON object", source);
  config.erase("quantization_config");
  return config.dump(2) + "\n";
}

std::string config_fp8(const std::string& config_json, const std::string& source,
                       const std::vector<std::string>& unconverted) {
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(config_json, nullptr, false);
  if (!config.is_object()) user_error("config", "{} is not a JSON object", source);
  config["quantization_config"] = {{"activation_scheme", "dynamic"},
                                   {"fmt", "e4m3"},
                                   {"modules_to_not_convert", unconverted},
                                   {"quant_method", "fp8"},
                                   {"weight_block_size", {128, 128}}};
  return config.dump(2) + "\n";
}

std::string config_untied(const std::string& config_json, const std::string& source) {
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(config_json, nullptr, false);
  if (!config.is_object()) user_error("config", "{} is not a JSON object", source);
  if (!config.contains("tie_word_embeddings")) return config_json;
  config["tie_word_embeddings"] = false;
  return config.dump(2) + "\n";
}

}  // namespace hone::app
