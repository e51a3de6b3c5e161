// Kills runs at random moments and goes on with them, against a run that was never stopped.
#pragma once

#include <random>

#include "robust_util.h"

namespace hone::robust {

struct KillCase {
  const char* name;
  std::vector<std::string> flags;
  const char* result;  // the file that must be the same, byte for byte
};

inline const std::vector<KillCase>& kill_cases() {
  static const std::vector<KillCase> cases = {
      {"lora_bf16",
       {"--dtype", "bf16", "--lora_rank", "4", "--lora_dropout", "0.1"},
       "adapter_model.safetensors"},
      {"lora_fp32",
       {"--dtype", "fp32", "--lora_rank", "4", "--lora_dropout", "0.1", "-g"},
       "adapter_model.safetensors"},
      {"full_bf16", {"--dtype", "bf16", "--lora_rank", "0"}, "model.safetensors"},
      {"full_fp32",
       {"--dtype", "fp32", "--lora_rank", "0", "--freeze", "model.embed_tokens.*"},
       "model.safetensors"},
  };
  return cases;
}

// Whether a checkpoint is being written or removed at this moment.
inline bool saving(const std::string& run_folder) {
  std::error_code code;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(run_folder + "/checkpoints", code)) {
    if (entry.path().filename().string().starts_with('.')) return true;
  }
  return false;
}

// At least `kills` kills with SIGKILL, half of them while a checkpoint is written.
inline void kill_and_resume(const TempFolder& work, const std::string& model,
                            const std::string& data, const KillCase& what, int kills,
                            uint32_t seed) {
  SCOPED_TRACE(what.name);
  const std::vector<std::string> flags =
      std::vector<std::string>{"sft", "--pretrained", model, "--dataset", data,   "--batch_size",
                               "2",   "--num_epochs", "2",   "--lr",      "1e-2", "--save_steps",
                               "2"} +
      what.flags;
  const std::string whole = work / (std::string("whole_") + what.name);
  const std::string killed = work / (std::string("killed_") + what.name);
  const auto begin = std::chrono::steady_clock::now();
  const Ended never_stopped = run(flags + std::vector<std::string>{"--save_dir", whole});
  ASSERT_EQ(never_stopped.code, 0) << never_stopped.err;
  const std::chrono::duration<double> length = std::chrono::steady_clock::now() - begin;
  const std::string result = read_file(whole + "/" + what.result);
  ASSERT_FALSE(result.empty());
  const std::vector<Json> logged = metrics(whole);
  ASSERT_GE(logged.size(), 20u);

  std::mt19937 random(seed);
  int done = 0, while_saving = 0, resumed = 0, finished = 0;
  while (done < kills || finished == 0) {
    Process process(flags + std::vector<std::string>{"--save_dir", killed, "--resume", "auto"});
    if (done < kills) {
      // A random moment; every second time the first save after it.
      const double moment = std::uniform_real_distribution<>(0, length.count())(random);
      std::this_thread::sleep_for(std::chrono::duration<double>(moment * 0.8));
      if (done % 2 == 1) {
        while (process.running() && !saving(killed)) {
          std::this_thread::sleep_for(std::chrono::microseconds(100));
        }
        while_saving += process.running() ? 1 : 0;
      }
      if (process.running()) process.send(SIGKILL);
    }
    const Ended ended = process.wait();
    resumed += ended.err.find("resumed from") != std::string::npos ? 1 : 0;
    if (ended.code == -SIGKILL) {
      ++done;
      continue;
    }
    ASSERT_EQ(ended.code, 0) << ended.err;
    ++finished;
    EXPECT_TRUE(read_file(killed + "/" + what.result) == result) << "another result";
    EXPECT_EQ(metrics(killed), logged);
    // Nothing is left of what was half written.
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(killed)) {
      EXPECT_EQ(entry.path().filename().string().find("tmp-"), std::string::npos) << entry.path();
    }
    fs::remove_all(killed);
  }
  std::printf("%s: %d kills (%d during a save), %d resumed, %d finished; a run takes %.2f s\n",
              what.name, done, while_saving, resumed, finished, length.count());
  EXPECT_GT(resumed, 0);
}

}  // namespace hone::robust
