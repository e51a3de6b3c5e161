// hone show and hone tokenize, as functions.
#include <cstdio>
#include <sstream>

#include "app/commands/show.h"
#include "app/commands/tokenize.h"
#include "data_test_util.h"

namespace hone::app {
namespace {

using data_test::message_of;
using data_test::TempFolder;

// What f writes to the stream it is given.
template <class F>
std::string output_of(F&& f) {
  char* data = nullptr;
  size_t size = 0;
  std::FILE* out = ::open_memstream(&data, &size);
  int code = -1;
  try {
    code = f(out);
  } catch (...) {
    std::fclose(out);
    std::free(data);
    throw;
  }
  std::fclose(out);
  std::string text(data, size);
  std::free(data);
  EXPECT_EQ(code, 0);
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

class Commands : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_.write("tokenizer.json", data_test::byte_tokenizer_json());
    folder_.write("tokenizer_config.json", data_test::byte_tokenizer_config_json());
  }
  std::string tokenize(const std::string& input, bool decode) {
    TokenizeOptions options;
    options.pretrained = folder_.path();
    options.input = folder_.write("in.jsonl", input);
    options.decode = decode;
    return output_of([&](std::FILE* out) { return run_tokenize(options, out); });
  }
  TempFolder folder_;
};

TEST_F(Commands, ShowJson) {
  ShowOptions options;
  options.pretrained = folder_.path();
  options.json = true;
  options.data.paths = {folder_.write(
      "a.jsonl",
      "[{\"role\":\"user\",\"content\":\"Q\"},{\"role\":\"assistant\",\"content\":\"é\"}]\n"
      "[{\"role\":\"user\",\"content\":\"Q\"}]\n")};
  options.data.add_generation_prompt = true;
  const auto lines = lines_of(output_of([&](std::FILE* out) { return run_show(options, out); }));
  ASSERT_EQ(lines.size(), 2u);
  const Json first = Json::parse(lines[0]), second = Json::parse(lines[1]);
  const std::string user = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(first["text"], user + "é<|im_end|>\n");
  EXPECT_EQ(second["text"], user);
  ASSERT_EQ(first["tokens"].size(), first["trained"].size());
  const auto n = first["tokens"].size();
  for (size_t t = 0; t < n; ++t) EXPECT_EQ(first["trained"][t], t + 4 >= n && t + 1 < n ? 1 : 0);
  EXPECT_EQ(first["tokens"][n - 2], 257);
  options.num_samples = 1;
  EXPECT_EQ(output_of([&](std::FILE* out) { return run_show(options, out); }), lines[0] + "\n");
}

TEST_F(Commands, ShowMarksTrainedTokens) {
  ShowOptions options;
  options.pretrained = folder_.path();
  options.data.paths = {
      folder_.write("a.jsonl", "{\"tokens\":[65,66,195,67],\"trained\":[0,1,1,0]}\n")};
  const std::string plain = output_of([&](std::FILE* out) { return run_show(options, out); });
  EXPECT_HAS(plain, "A[[B\xC3]]C");
  EXPECT_HAS(plain, "1 *      66  \"B\"");
  EXPECT_HAS(plain, "2 *     195  \"\\xc3\"");
  EXPECT_HAS(plain, "3        67  \"C\"");
  EXPECT_HAS(plain, "4 tokens, 2 trained");
  options.color = ShowOptions::Color::kAlways;
  EXPECT_HAS(output_of([&](std::FILE* out) { return run_show(options, out); }), "A\x1b[30;42mB");
}

TEST_F(Commands, TokenizeAndBack) {
  const std::string ids = tokenize("\"AB\"\n\n\"<|im_end|>\\n\"\r\n\"\"\n", false);
  EXPECT_EQ(ids, "[65,66]\n[257,10]\n[]\n");
  EXPECT_EQ(tokenize(ids, true), "\"AB\"\n\"<|im_end|>\\n\"\n\"\"\n");
  // Order is kept over many lines and threads.
  std::string many, wanted;
  for (int i = 0; i < 5000; ++i) {
    many += "\"" + std::string(1, static_cast<char>('a' + i % 26)) + "\"\n";
    wanted += "[" + std::to_string('a' + i % 26) + "]\n";
  }
  EXPECT_EQ(tokenize(many, false), wanted);
}

TEST_F(Commands, FaultsNameTheLine) {
  const auto fault = [&](const std::string& input, bool decode) {
    return message_of<UserError>([&] { tokenize(input, decode); });
  };
  EXPECT_HAS(fault("\"a\"\n12\n", false), "in.jsonl:2: found number; expected a JSON string");
  EXPECT_HAS(fault("\"a\"\n[12]\n", false), "is --decode missing?");
  EXPECT_HAS(fault("\"a\n", false), "in.jsonl:1: not valid JSON");
  EXPECT_HAS(fault("[1]\n\n[1,-1]\n", true), "in.jsonl:3: element 1 is -1");
  EXPECT_HAS(fault("[99999]\n", true), "in.jsonl:1:");
  EXPECT_HAS(fault("\"" + std::string(17 << 20, 'x') + "\"\n", false),
             "in.jsonl:1: the line is over");
}

}  // namespace
}  // namespace hone::app
