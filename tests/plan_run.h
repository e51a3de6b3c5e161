// Helpers of the planner's tests: models made by the binary, runs of it with their peak memory, and
// data that fills micro-batches.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data_test_util.h"

namespace hone::plan_test {

namespace fs = std::filesystem;
using data_test::TempFolder;

struct Ran {
  int code = -1;     // exit code, or -signal
  size_t peak = 0;   // VmHWM of the process, bytes
  std::string text;  // stdout and stderr
};

// Runs a program to its end. (VmHWM reaches the parent as ru_maxrss.)
inline Ran run_program(std::vector<std::string> args, const TempFolder& folder) {
  const std::string log = folder / "log.txt";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  std::vector<char*> argv;
  for (std::string& a : args) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_t pid = -1;
  Ran ran;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ran;
  int status = 0;
  rusage usage{};
  wait4(pid, &status, 0, &usage);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  ran.peak = static_cast<size_t>(usage.ru_maxrss) << 10;
  std::ifstream in(log, std::ios::binary);
  ran.text.assign(std::istreambuf_iterator<char>(in), {});
  return ran;
}

inline Ran run_hone(std::vector<std::string> args, const TempFolder& folder) {
  args.insert(args.begin(), HONE_BINARY);
  return run_program(std::move(args), folder);
}

// A Qwen2 of random weights with the byte tokenizer; its folder.
inline std::string make_model(const TempFolder& folder, const std::string& name, int64_t hidden,
                              int64_t layers, int64_t vocab, const std::string& dtype) {
  const Json config = {{"architectures", {"Qwen2ForCausalLM"}},
                       {"model_type", "qwen2"},
                       {"hidden_size", hidden},
                       {"intermediate_size", hidden * 4},
                       {"num_hidden_layers", layers},
                       {"num_attention_heads", hidden / 64},
                       {"num_key_value_heads", hidden / 128},
                       {"vocab_size", vocab},
                       {"rms_norm_eps", 1e-6},
                       {"rope_theta", 10000.0},
                       {"max_position_embeddings", 4096},
                       {"tie_word_embeddings", true},
                       {"hidden_act", "silu"},
                       {"torch_dtype", dtype == "bf16" ? "bfloat16" : "float32"},
                       {"eos_token_id", 257}};
  const std::string shape = folder.write(name + ".json", config.dump());
  const std::string out = folder / name;
  const Ran made = run_hone({"init", "--config", shape, "--output", out, "--dtype", dtype}, folder);
  EXPECT_EQ(made.code, 0) << made.text;
  folder.write(name + "/tokenizer.json", data_test::byte_tokenizer_json());
  folder.write(name + "/tokenizer_config.json", data_test::byte_tokenizer_config_json());
  return out;
}

// Token lists of `length` tokens, all of them trained.
inline std::string make_tokens(const TempFolder& folder, int64_t samples, int64_t length) {
  const std::string path = folder / ("tokens-" + std::to_string(length) + ".jsonl");
  std::ofstream out(path);
  for (int64_t i = 0; i < samples; ++i) {
    Json tokens = Json::array(), trained = Json::array();
    for (int64_t t = 0; t < length; ++t) {
      tokens.push_back((i * 7919 + t * 31 + 1) % 256);
      trained.push_back(t > 0 ? 1 : 0);
    }
    out << Json{{"tokens", tokens}, {"trained", trained}}.dump() << "\n";
  }
  return path;
}

// The promise of the planner: 5%, or 48 MB where that is more.
inline double tolerance(size_t measured) {
  return std::max(0.05 * static_cast<double>(measured), 48e6);
}

}  // namespace hone::plan_test
