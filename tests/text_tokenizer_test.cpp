// Tokenizers against golden ids, and the properties the rest relies on: ranges, decoding, threads.
#include "text/tokenizer.h"

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "text_test_util.h"

namespace hone {
namespace {

using text_test::assets;
using text_test::read_file;
using text_test::read_gz;

const Tokenizer& qwen25() {
  static const Tokenizer tokenizer =
      Tokenizer::from_json(read_gz(assets() + "/tok-qwen/qwen2.5.tokenizer.json.gz"),
                           read_file(assets() + "/tok-qwen/qwen2.5.tokenizer_config.json"));
  return tokenizer;
}
const Tokenizer& qwen3() {
  static const Tokenizer tokenizer =
      Tokenizer::from_json(read_gz(assets() + "/tok-qwen/qwen3.tokenizer.json.gz"),
                           read_file(assets() + "/tok-qwen/qwen3.tokenizer_config.json"));
  return tokenizer;
}
const Tokenizer& gpt2() {
  static const Tokenizer tokenizer = Tokenizer::load(assets() + "/tok-gpt2");
  return tokenizer;
}
const Tokenizer& stories() {
  static const Tokenizer tokenizer = Tokenizer::load(assets() + "/model-stories260k");
  return tokenizer;
}

std::vector<std::string> texts_of(const std::string& path) {
  std::vector<std::string> texts = text_test::split(read_file(path), "\n__ggml_vocab_test__\n");
  return texts;
}

void expect_goldens(const Tokenizer& tokenizer, const std::string& stem) {
  const std::vector<std::string> texts = texts_of(stem + ".inp");
  const std::vector<std::string> lines = text_test::split(read_file(stem + ".out"), "\n");
  ASSERT_GE(lines.size(), texts.size());
  ASSERT_EQ(texts.size(), 47u);
  for (size_t i = 0; i < texts.size(); i++) {
    std::istringstream numbers(lines[i]);
    std::vector<int32_t> want;
    for (int32_t id; numbers >> id;) want.push_back(id);
    EXPECT_EQ(tokenizer.encode(texts[i]), want) << "text " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer.decode(want), texts[i]);
  }
}

TEST(Tokenizer, GoldenIds) {
  HONE_NEEDS_ASSETS();
  expect_goldens(qwen25(), assets() + "/tok-qwen/qwen2");
  expect_goldens(qwen3(), assets() + "/tok-qwen/qwen2");
  expect_goldens(qwen3(), assets() + "/tok-qwen/deepseek-r1-qwen");
  expect_goldens(gpt2(), assets() + "/tok-gpt2/gpt-2");
}

}  // namespace
}  // namespace hone
