// Helpers of the tests that run the hone binary: a tiny model, processes that can be killed, and
// pictures of a folder to see that nothing in it changed.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <map>
#include <sstream>
#include <thread>

#include "data_test_util.h"

namespace hone::robust {

namespace fs = std::filesystem;
using data_test::TempFolder;

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Ended {
  int code = -1;  // exit code, or -signal
  std::string out;
  std::string err;
};

// One run of the binary, in the background until wait().
class Process {
 public:
  explicit Process(const std::vector<std::string>& args,
                   const std::function<void()>& in_child = nullptr)
      : out_(std::tmpfile()), err_(std::tmpfile()) {
    std::vector<const char*> argv = {HONE_BINARY};
    for (const std::string& arg : args) argv.push_back(arg.c_str());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(open("/dev/null", O_RDONLY), 0);
      dup2(fileno(out_), 1);
      dup2(fileno(err_), 2);
      if (in_child) in_child();
      execv(HONE_BINARY, const_cast<char**>(argv.data()));
      _exit(127);
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (running()) {
      send(SIGKILL);
      wait();
    }
    std::fclose(out_);
    std::fclose(err_);
  }

  void send(int signal) const { kill(pid_, signal); }
  bool running() {
    if (done_) return false;
    done_ = waitpid(pid_, &status_, WNOHANG) == pid_;
    return !done_;
  }
  // Fails the test and ends the process if it takes longer.
  Ended wait(double seconds = 300) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (running()) {
      if (std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << "still running after " << seconds << " s";
        send(SIGKILL);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
    Ended e;
    e.code = WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
    e.out = text(out_);
    e.err = text(err_);
    return e;
  }

 private:
  static std::string text(std::FILE* file) {
    std::string s(static_cast<size_t>(lseek(fileno(file), 0, SEEK_END)), '\0');
    if (pread(fileno(file), s.data(), s.size(), 0) != static_cast<ssize_t>(s.size())) s.clear();
    return s;
  }
  std::FILE* out_;
  std::FILE* err_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool done_ = false;
};

inline Ended run(const std::vector<std::string>& args,
                 const std::function<void()>& in_child = nullptr) {
  return Process(args, in_child).wait();
}

inline std::vector<std::string> operator+(std::vector<std::string> a,
                                          const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Two layers, one key head for two query heads, the byte tokenizer's 259 ids.
inline Json tiny_config() {
  return Json{{"architectures", {"Qwen2ForCausalLM"}},
              {"model_type", "qwen2"},
              {"hidden_size", 16},
              {"intermediate_size", 32},
              {"num_hidden_layers", 2},
              {"num_attention_heads", 2},
              {"num_key_value_heads", 1},
              {"max_position_embeddings", 256},
              {"rms_norm_eps", 1e-6},
              {"rope_theta", 10000.0},
              {"hidden_act", "silu"},
              {"vocab_size", 259},
              {"tie_word_embeddings", false},
              {"eos_token_id", 257},
              {"torch_dtype", "float32"}};
}

// Makes `folder` a model of random weights.
inline void make_model(const TempFolder& work, const std::string& folder,
                       const std::string& dtype = "fp32", const Json& config = tiny_config()) {
  const std::string tokenizer = work / "tokenizer_of_" + fs::path(folder).filename().string();
  fs::create_directories(tokenizer);
  std::ofstream(tokenizer + "/tokenizer.json") << data_test::byte_tokenizer_json();
  std::ofstream(tokenizer + "/tokenizer_config.json") << data_test::byte_tokenizer_config_json();
  const std::string shape = work.write("shape.json", config.dump());
  const Ended made = run(
      {"init", "--config", shape, "--tokenizer", tokenizer, "--output", folder, "--dtype", dtype});
  ASSERT_EQ(made.code, 0) << made.err;
}

// n chats, no two alike.
inline std::string chats(int n) {
  std::string text;
  for (int i = 0; i < n; ++i) {
    text += Json::array({{{"role", "user"}, {"content", std::to_string(i) + "+1?"}},
                         {{"role", "assistant"},
                          {"content", std::to_string(i + 1) + std::string(i % 7, '!')}}})
                .dump() +
            "\n";
  }
  return text;
}

// Path -> content and time of change of every file and folder below.
inline std::map<std::string, std::string> picture(const std::string& folder) {
  std::map<std::string, std::string> files;
  if (!fs::exists(folder)) return files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().lexically_relative(folder).string();
    if (name == ".lock" || name.starts_with(".cache")) continue;
    files[name] = entry.is_regular_file()
                      ? std::to_string(entry.last_write_time().time_since_epoch().count()) + " " +
                            read_file(entry.path().string())
                      : "folder";
  }
  return files;
}

// The lines of a metrics.jsonl without what depends on the machine's time and memory.
inline std::vector<Json> metrics(const std::string& run_folder) {
  std::vector<Json> lines;
  std::istringstream in(read_file(run_folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    Json json = Json::parse(line);
    json.erase("tokens_per_second");
    json.erase("peak_memory");
    lines.push_back(std::move(json));
  }
  return lines;
}

}  // namespace hone::robust
