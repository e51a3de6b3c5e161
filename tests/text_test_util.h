// Shared by the tests of text/: where the assets are, and a model folder put together from them.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hone::text_test {

inline std::string assets() { return HONE_SOURCE_DIR "/../shared/assets"; }
inline bool has_assets() { return std::filesystem::exists(assets()); }

#define HONE_NEEDS_ASSETS() \
  if (!::hone::text_test::has_assets()) GTEST_SKIP() << "needs ../shared/assets"

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

// A tokenizer of tests/fixtures/text and what the Python library makes of some texts: "tokenizer",
// "config" (but for missing_bytes) and "cases" (tools/make_tokenizer_fixture.py).
inline nlohmann::json own_tokenizer(const std::string& name) {
  return nlohmann::json::parse(read_file(HONE_SOURCE_DIR "/tests/fixtures/text/" + name + ".json"));
}

inline std::string read_gz(const std::string& path) {
  std::string text;
  std::FILE* pipe = popen(("gunzip -c '" + path + "'").c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  char block[65536];
  size_t n;
  while ((n = std::fread(block, 1, sizeof(block), pipe)) > 0) text.append(block, n);
  EXPECT_EQ(pclose(pipe), 0) << path;
  return text;
}

// A folder that goes away with the object.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hone_text_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream out(path_ + "/" + name, std::ios::binary);
    out << text;
  }

 private:
  std::string path_;
};

inline std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t at = 0;
  for (size_t next; (next = text.find(separator, at)) != std::string::npos;) {
    parts.push_back(text.substr(at, next - at));
    at = next + separator.size();
  }
  parts.push_back(text.substr(at));
  return parts;
}

}  // namespace hone::text_test
