// The embedded example, run as a user runs it: the data is what its script writes, and tuning turns
// wrong answers into right ones.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace {

const std::string kSource = HONE_SOURCE_DIR;

struct Result {
  int status;
  std::string output;
};

Result run(const std::string& command) {
  Result result{.status = -1, .output = ""};
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  size_t n = 0;
  while ((n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0)
    result.output.append(buffer.data(), n);
  result.status = pclose(pipe);
  return result;
}

std::string file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// "TITLE   3/50   49/50" somewhere in the text: the two counts.
struct Counts {
  int base = -1, tuned = -1, of = -1;
};
Counts counts_of(const std::string& text, const std::string& title) {
  Counts c;
  int other = 0;
  const size_t at = text.find("\n" + title);
  if (at == std::string::npos) return c;
  if (sscanf(text.c_str() + at + 1 + title.size(), " %d/%d %d/%d", &c.base, &c.of, &c.tuned,
             &other) != 4)
    return {};
  return c;
}

TEST(Demo, DataIsWhatTheScriptWrites) {
  struct Case {
    const char* file;
    const char* arguments;
  };
  for (const Case& c :
       {Case{"twice.jsonl", "-v kind=twice -v count=600 -v seed=11"},
        Case{"basic.jsonl", "-v kind=basic -v count=200 -v seed=12"},
        Case{"twice.questions.jsonl", "-v kind=twice -v count=50 -v seed=13 -v questions=1"},
        Case{"basic.questions.jsonl", "-v kind=basic -v count=50 -v seed=14 -v questions=1"}}) {
    const Result r =
        run(std::string("awk ") + c.arguments + " -f '" + kSource + "/demo/problems.awk'");
    ASSERT_EQ(r.status, 0);
    EXPECT_EQ(r.output, file(kSource + "/demo/" + c.file)) << c.file;
  }
}

TEST(Demo, TuningTeachesTheNewWordsAndKeepsTheOld) {
  const std::string folder =
      (std::filesystem::temp_directory_path() / ("hone_demo_" + std::to_string(getpid()))).string();
  const Result r = run("sh '" + kSource + "/demo/demo.sh' '" HONE_BINARY "' '" + folder + "'");
  ASSERT_EQ(r.status, 0) << r.output;
  const Counts twice = counts_of(r.output, "new words: \"twice as many\"");
  const Counts basic = counts_of(r.output, "what the base model knew");
  EXPECT_EQ(twice.of, 50);
  EXPECT_EQ(basic.of, 50);
  // Measured: 0 and 49 of 50 on the new words, 50 and 48 on the old ones. The bounds leave room for
  // another instruction path's rounding; a model that has not learned is far from them.
  EXPECT_LE(twice.base, 15);
  EXPECT_GE(twice.tuned, 40);
  EXPECT_GE(basic.base, 45);
  EXPECT_GE(basic.tuned, 40);
  EXPECT_TRUE(std::filesystem::exists(folder + "/adapter_model.safetensors"));
  std::filesystem::remove_all(folder);
}

}  // namespace
