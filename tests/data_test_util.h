// Helpers of the data tests: a temporary folder, a byte-level tokenizer with ChatML tokens, and the
// real files of ../shared/assets.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.h"
#include "data/dataset.h"

namespace hone::data_test {

namespace fs = std::filesystem;

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (fs::temp_directory_path() / "hone-data-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return *this / name;
  }

 private:
  fs::path path_;
};

inline const char* kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\\n' }}{% endif %}";

// One token a byte (its value is its id), then <|im_start|> 256, <|im_end|> 257 (eos), <|pad|> 258.
inline std::string byte_tokenizer_json() {
  const auto symbol = [](int byte) -> std::string {
    // GPT-2's printable stand-ins for bytes.
    const auto printable = [](int b) {
      return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
    };
    int code = byte;
    if (!printable(byte)) {
      code = 256;
      for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
    }
    if (code < 0x80) return std::string(1, static_cast<char>(code));
    return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
  };
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = Json::array();
  const char* special[] = {"<|im_start|>", "<|im_end|>", "<|pad|>"};
  for (int i = 0; i < 3; ++i)
    json["added_tokens"].push_back({{"id", 256 + i},
                                    {"content", special[i]},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  json["normalizer"] = nullptr;
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
  json["pre_tokenizer"] = byte_level;
  json["post_processor"] = byte_level;
  json["decoder"] = byte_level;
  Json vocab = Json::object();
  for (int b = 0; b < 256; ++b) vocab[symbol(b)] = b;
  json["model"] = {{"type", "BPE"},          {"dropout", nullptr},    {"unk_token", nullptr},
                   {"byte_fallback", false}, {"vocab", vocab},        {"merges", Json::array()},
                   {"fuse_unk", false},      {"ignore_merges", false}};
  return json.dump();
}

inline std::string byte_tokenizer_config_json() {
  return Json{{"eos_token", "<|im_end|>"}, {"pad_token", "<|pad|>"}, {"chat_template", kChatMl}}
      .dump();
}

inline data::TextModel byte_text_model(const char* chat_template = kChatMl) {
  data::TextModel model{
      .tokenizer = Tokenizer::from_json(byte_tokenizer_json(), byte_tokenizer_config_json())};
  if (chat_template)
    model.chat_template =
        ChatTemplate::from_string(chat_template, model.tokenizer.special_tokens());
  model.fingerprint = 42;
  return model;
}

inline std::shared_ptr<const data::Dataset> open_files(std::vector<std::string> paths,
                                                       data::DatasetOptions options = {}) {
  options.paths = std::move(paths);
  return data::Dataset::open(byte_text_model(), std::move(options));
}

inline std::string asset(const std::string& name) {
  return HONE_SOURCE_DIR "/../shared/assets/" + name;
}

// A Qwen2.5 folder without weights, unpacked into `folder`; false if the assets aren't there.
inline bool unpack_qwen(const TempFolder& folder) {
  const std::string packed = asset("tok-qwen/qwen2.5.tokenizer.json.gz");
  if (!fs::exists(packed)) return false;
  const std::string command = "gzip -dc '" + packed + "' > '" + (folder / "tokenizer.json") + "'";
  if (std::system(command.c_str()) != 0) return false;
  fs::copy_file(asset("tok-qwen/qwen2.5.tokenizer_config.json"), folder / "tokenizer_config.json");
  return true;
}

// The text of the exception of type E that f throws; fails if it throws none.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  ADD_FAILURE() << "no such exception";
  return {};
}

#define EXPECT_HAS(text, part)                               \
  EXPECT_NE(std::string(text).find(part), std::string::npos) \
      << "\"" << (text) << "\" has no \"" << (part) << "\""

}  // namespace hone::data_test
