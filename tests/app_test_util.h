// Runs of the hone binary in folders of their own.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace hone::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

inline std::string read_file(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline std::vector<Json> read_lines(const fs::path& path) {
  std::vector<Json> lines;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

struct Result {
  int code = -1;
  std::string out, err;
};

// A folder that is gone after the test, and the binary run in it.
class Workplace {
 public:
  Workplace() {
    std::string name = (fs::temp_directory_path() / "hone-run-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~Workplace() { fs::remove_all(path_); }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }

  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return name;
  }

  // Arguments as a shell reads them; environment such as "HONE_ISA=avx2" may stand before.
  Result hone(const std::string& arguments, const std::string& environment = "",
              const std::string& input = "/dev/null") const {
    const std::string command = "cd '" + path_.string() + "' && " + environment + " '" +
                                HONE_BINARY + "' " + arguments + " > .stdout 2> .stderr < " + input;
    const int status = std::system(command.c_str());
    Result r;
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    r.out = read_file(path_ / ".stdout");
    r.err = read_file(path_ / ".stderr");
    return r;
  }

  // A golden model's folder with a tokenizer of 256 bytes and three special tokens beside it.
  std::string model(const std::string& family) const {
    const fs::path from = fs::path(HONE_SOURCE_DIR) / "tests/fixtures/models" / family;
    fs::create_directory(path_ / family);
    for (const auto& entry : fs::directory_iterator(from)) {
      const std::string name = entry.path().filename().string();
      if (entry.is_regular_file() && name != "golden.safetensors")
        fs::copy_file(entry.path(), path_ / family / name);
    }
    file("text.txt", "some words of text, some more words of text\n");
    file("chat.jinja",
         "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
         "{% if add_generation_prompt %}<s>assistant\n{% endif %}");
    const Result r = hone(
        "tokenizer --input text.txt --vocab_size 259 --special '<pad>' '<s>' "
        "'</s>' --eos_token '</s>' --chat_template chat.jinja --output " +
        family);
    EXPECT_EQ(r.code, 0) << r.err;
    return family;
  }

 private:
  fs::path path_;
};

}  // namespace hone::test
