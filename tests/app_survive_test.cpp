// Runs that are killed, interrupted, starved of disk or fed with what overflows: nothing that was
// done is lost, and what is left says what happened.
#include <sys/mount.h>
#include <sys/statvfs.h>

#include "robust_kill.h"

namespace hone::robust {
namespace {

class Survive : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = work_ / "model";
    make_model(work_, model_);
    data_ = work_.write("data.jsonl", chats(21));
  }
  // 22 steps; a checkpoint every second.
  std::vector<std::string> flags(const std::string& save_dir) const {
    return {"sft",   "--pretrained", model_, "--dataset",      data_,  "--batch_size",
            "2",     "--num_epochs", "2",    "--lr",           "1e-2", "--save_steps",
            "2",     "--lora_rank",  "4",    "--lora_dropout", "0.1",  "--save_dir",
            save_dir};
  }
  static int64_t newest(const std::string& run_folder) {
    int64_t step = 0;
    std::error_code code;
    for (const auto& entry : fs::directory_iterator(run_folder + "/checkpoints", code)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("step-")) step = std::max<int64_t>(step, std::stoll(name.substr(5)));
    }
    return step;
  }
  // Starts a run and sends a signal once a checkpoint is there.
  Ended stop_early(const std::string& folder, int signal, int times = 1) {
    Process process(flags(folder));
    while (process.running() && newest(folder) == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    for (int i = 0; i < times; ++i) process.send(signal);
    return process.wait();
  }
  void expect_same(const std::string& folder, const std::string& whole) {
    EXPECT_TRUE(read_file(folder + "/adapter_model.safetensors") ==
                read_file(whole + "/adapter_model.safetensors"));
    EXPECT_EQ(metrics(folder), metrics(whole));
  }

  TempFolder work_;
  std::string model_, data_;
};

TEST_F(Survive, KilledFourTimes) { kill_and_resume(work_, model_, data_, kill_cases()[0], 4, 7); }

TEST_F(Survive, InterruptedThenFinishedThenLeftAlone) {
  const std::string whole = work_ / "whole", out = work_ / "out";
  ASSERT_EQ(run(flags(whole)).code, 0);
  const Ended interrupted = stop_early(out, SIGINT);
  ASSERT_EQ(interrupted.code, 130) << interrupted.err;
  EXPECT_HAS(interrupted.err, "go on with --resume auto");
  const auto before = picture(out);

  // Other flags would make it another run.
  const Ended changed =
      run(flags(out) + std::vector<std::string>{"--resume", "auto", "--seed", "1"});
  EXPECT_EQ(changed.code, 2);
  EXPECT_HAS(changed.err, "seed = 42, this run has 1");
  // So would other weights, flags alone don't tell.
  const std::string weights = read_file(model_ + "/model.safetensors");
  std::string other = weights;
  other[other.size() - 1] = static_cast<char>(other[other.size() - 1] ^ 1);
  std::ofstream(model_ + "/model.safetensors", std::ios::binary) << other;
  const Ended another = run(flags(out) + std::vector<std::string>{"--resume", "auto"});
  EXPECT_EQ(another.code, 2);
  EXPECT_HAS(another.err, "weights_fingerprint");
  std::ofstream(model_ + "/model.safetensors", std::ios::binary) << weights;
  const Ended unasked = run(flags(out));
  EXPECT_EQ(unasked.code, 2);
  EXPECT_HAS(unasked.err, "already holds a run");
  EXPECT_TRUE(picture(out) == before);

  const Ended resumed = run(flags(out) + std::vector<std::string>{"--resume", "auto"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  expect_same(out, whole);

  const auto finished = picture(out);
  const Ended again = run(flags(out) + std::vector<std::string>{"--resume", "auto"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_HAS(again.err, "nothing is left to do");
  EXPECT_EQ(run(flags(out)).code, 2);
  EXPECT_EQ(run(flags(out) + std::vector<std::string>{"--resume", "auto", "--lr", "2e-2"}).code, 2);
  EXPECT_TRUE(picture(out) == finished);
}

// Weights are used from the mapped file; one that is cut meanwhile is told, not a crash.
TEST_F(Survive, WeightsCutWhileTheyAreUsed) {
  const std::string model = work_ / "bf16", out = work_ / "out";
  make_model(work_, model, "bf16");
  std::vector<std::string> cut = flags(out);
  cut[2] = model;
  *(std::find(cut.begin(), cut.end(), "--num_epochs") + 1) = "2000";
  Process process(cut);
  while (process.running() && newest(out) == 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  fs::resize_file(model + "/model.safetensors", 100);
  const Ended ended = process.wait();
  EXPECT_EQ(ended.code, 1);
  EXPECT_HAS(ended.err, "became shorter while it was read");
}

TEST_F(Survive, SecondInterruptEndsAtOnce) {
  const std::string out = work_ / "out";
  const Ended ended = stop_early(out, SIGINT, 50);
  EXPECT_EQ(ended.code, 130) << ended.err;
  EXPECT_EQ(run(flags(out) + std::vector<std::string>{"--resume", "auto"}).code, 0);
}

TEST_F(Survive, ADamagedCheckpointIsPassedOver) {
  const std::string whole = work_ / "whole", out = work_ / "out";
  ASSERT_EQ(run(flags(whole)).code, 0);
  const auto spoil = [&](int64_t step) {
    const std::string file =
        out + "/checkpoints/step-" + std::to_string(step) + "/state.safetensors";
    std::string bytes = read_file(file);
    ASSERT_FALSE(bytes.empty());
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    std::ofstream(file, std::ios::binary) << bytes;
  };
  Process process(flags(out));
  while (process.running() && newest(out) < 4) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  process.send(SIGKILL);
  process.wait();
  const int64_t step = newest(out);
  ASSERT_GE(step, 4);
  spoil(step);
  const Ended resumed = run(flags(out) + std::vector<std::string>{"--resume", "auto"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_HAS(resumed.err, "does not fit its hash");
  EXPECT_HAS(resumed.err, "resumed from");
  expect_same(out, whole);
}

// From an older checkpoint the later ones and their lines go, and the end is the same.
TEST_F(Survive, ResumedFromAnOlderCheckpoint) {
  const std::string out = work_ / "out";
  ASSERT_EQ(run(flags(out) + std::vector<std::string>{"--save_total_limit", "0"}).code, 0);
  const std::string adapter = read_file(out + "/adapter_model.safetensors");
  const auto logged = metrics(out);
  const Ended ended =
      run(flags(out) + std::vector<std::string>{"--save_total_limit", "0", "--resume",
                                                out + "/checkpoints/step-6", "--max_steps", "22"});
  ASSERT_EQ(ended.code, 2);  // max_steps was 0
  EXPECT_HAS(ended.err, "max_steps = 0");
  const Ended resumed =
      run(flags(out) + std::vector<std::string>{"--save_total_limit", "0", "--resume",
                                                out + "/checkpoints/step-6"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_HAS(resumed.err, "after step 6");
  EXPECT_TRUE(read_file(out + "/adapter_model.safetensors") == adapter);
  EXPECT_EQ(metrics(out), logged);
}

// --overwrite takes the old run away only when the new one can begin.
TEST_F(Survive, OverwriteComesLast) {
  const std::string out = work_ / "out";
  ASSERT_EQ(run(flags(out)).code, 0);
  const auto before = picture(out);
  const std::string weights = model_ + "/model.safetensors", good = read_file(weights);
  std::string bad = good;
  std::fill(bad.end() - 4, bad.end(), '\xff');
  std::ofstream(weights, std::ios::binary) << bad;
  EXPECT_EQ(run(flags(out) + std::vector<std::string>{"--overwrite"}).code, 2);
  EXPECT_TRUE(picture(out) == before);
  std::ofstream(weights, std::ios::binary) << good;
  const Ended replaced = run(flags(out) + std::vector<std::string>{"--overwrite", "--seed", "1"});
  EXPECT_EQ(replaced.code, 0) << replaced.err;
  EXPECT_FALSE(picture(out) == before);
}

TEST_F(Survive, NonFiniteStopsOrIsSkipped) {
  const std::string out = work_ / "out";
  std::vector<std::string> wild = flags(out);
  *(std::find(wild.begin(), wild.end(), "--lr") + 1) = "1e30";
  const Ended stopped = run(wild);
  EXPECT_EQ(stopped.code, 1) << stopped.err;
  EXPECT_HAS(stopped.err, "step 2: loss nan");
  EXPECT_HAS(stopped.err, "data.jsonl:");
  const std::string batch = out + "/nonfinite-step-2.jsonl";
  EXPECT_HAS(stopped.err, batch);
  EXPECT_EQ(metrics(out).size(), 1u);
  // The batch alone: the same samples, in one step.
  std::vector<std::string> replay = flags(work_ / "replay");
  *(std::find(replay.begin(), replay.end(), "--dataset") + 1) = batch;
  *(std::find(replay.begin(), replay.end(), "--num_epochs") + 1) = "1";
  const Ended replayed = run(replay);
  EXPECT_EQ(replayed.code, 0) << replayed.err;
  ASSERT_EQ(metrics(work_ / "replay").size(), 1u);
  // Skipped and counted; what was saved goes on from where it stopped.
  const Ended skipped =
      run(wild + std::vector<std::string>{"--on_nonfinite", "skip", "--resume", "auto"});
  EXPECT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_HAS(skipped.err, "after step 1");
  EXPECT_HAS(skipped.err, "skipped (21 so far)");
  const auto logged = metrics(out);
  ASSERT_EQ(logged.size(), 22u);
  EXPECT_FALSE(logged[0].contains("skipped"));
  EXPECT_EQ(logged[21]["skipped"], true);
}

int64_t bytes_below(const fs::path& folder) {
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    bytes += 4096;
    if (entry.is_regular_file())
      bytes += static_cast<int64_t>(entry.file_size() + 4095) / 4096 * 4096;
  }
  return bytes;
}

// A file system too small for a third checkpoint.
TEST_F(Survive, FullDisk) {
  const std::string whole = work_ / "whole", disk = work_ / "disk", out = disk + "/out";
  ASSERT_EQ(run(flags(whole)).code, 0);
  const int64_t checkpoint = bytes_below(fs::path(whole) / "checkpoints/step-22");
  fs::create_directory(disk);
  const auto size = [](int64_t bytes) { return "size=" + std::to_string(bytes); };
  if (mount("none", disk.c_str(), "tmpfs", 0, size(checkpoint * 5 / 2 + 65536).c_str()) != 0) {
    GTEST_SKIP() << "no permission to mount a small file system";
  }
  struct Unmount {
    std::string at;
    ~Unmount() { umount2(at.c_str(), MNT_DETACH); }
  } unmount{disk};
  const std::vector<std::string> keep = {"--save_total_limit", "0"};
  const Ended full = run(flags(out) + keep);
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_HAS(full.err, "error: ");
  EXPECT_HAS(full.err, "checkpoints/.tmp-step-");
  const int64_t kept = newest(out);
  EXPECT_GE(kept, 4);
  for (const auto& entry : fs::directory_iterator(out + "/checkpoints")) {
    EXPECT_FALSE(entry.path().filename().string().starts_with('.')) << entry.path();
  }
  // As told, it goes on; and with more room the run that stopped ends as one that never did.
  const Ended goes_on =
      run(flags(out) + keep +
          std::vector<std::string>{"--resume", "auto", "--on_save_error", "continue"});
  EXPECT_HAS(goes_on.err, "the last good checkpoint is kept and the run goes on");
  EXPECT_HAS(goes_on.err, "step 22/22");
  ASSERT_EQ(mount("none", disk.c_str(), "tmpfs", MS_REMOUNT, "size=100m"), 0);
  fs::remove(out + "/finished.json");
  const Ended resumed = run(flags(out) + keep + std::vector<std::string>{"--resume", "auto"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_HAS(resumed.err, "after step " + std::to_string(kept));
  expect_same(out, whole);
}

// The same by a limit on the size of files, which needs no permission.
TEST_F(Survive, FileSizeLimit) {
  const std::string out = work_ / "out";
  const auto limit = [] {
    const rlimit bytes{20000, 20000};
    setrlimit(RLIMIT_FSIZE, &bytes);
  };
  const Ended ended = Process(flags(out), limit).wait();
  EXPECT_EQ(ended.code, 1) << ended.err;
  EXPECT_HAS(ended.err, "error: ");
  EXPECT_HAS(ended.err, "state.safetensors");
  const Ended resumed = run(flags(out) + std::vector<std::string>{"--resume", "auto"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
}

TEST_F(Survive, ReadOnlyDisk) {
  const std::string disk = work_ / "disk";
  fs::create_directory(disk);
  if (mount("none", disk.c_str(), "tmpfs", MS_RDONLY, "size=1m") != 0) {
    GTEST_SKIP() << "no permission to mount a file system";
  }
  const Ended ended = run(flags(disk + "/out"));
  umount2(disk.c_str(), MNT_DETACH);
  EXPECT_EQ(ended.code, 1) << ended.err;
  EXPECT_HAS(ended.err, disk + "/out");
  EXPECT_HAS(ended.err, "Read-only file system");
}

}  // namespace
}  // namespace hone::robust
