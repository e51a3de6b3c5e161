// The answers of hone generate are there whatever ends it, and another run goes on with them.
#include <sys/stat.h>

#include "robust_util.h"

namespace hone::robust {
namespace {

class Answers : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = work_ / "model";
    make_model(work_, model_);
    std::string prompts;
    for (int i = 0; i < 40; ++i)
      prompts +=
          "{\"prompt\": \"" + std::to_string(i * i) + "\", \"n\": " + std::to_string(i) + "}\n";
    prompts_ = work_.write("prompts.jsonl", prompts);
  }
  std::vector<std::string> flags(const std::string& output) const {
    return {"generate", "--pretrained",  model_, "--input",          prompts_, "--output",
            output,     "--num_samples", "3",    "--max_new_tokens", "100",    "--batch_size",
            "2",        "--ignore_eos"};
  }
  static int64_t lines(const std::string& text) {
    return std::count(text.begin(), text.end(), '\n');
  }
  // A run that is killed after some answers; how many are left.
  int64_t kill_early(const std::string& output) {
    Process process(flags(output));
    while (process.running() && lines(read_file(output + ".partial")) < 5) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    process.send(SIGKILL);
    process.wait();
    return lines(read_file(output + ".partial"));
  }

  TempFolder work_;
  std::string model_, prompts_;
};

TEST_F(Answers, StayWhenKilledAndGoOn) {
  const std::string whole = work_ / "whole.jsonl", out = work_ / "out.jsonl";
  ASSERT_EQ(run(flags(whole)).code, 0);
  const std::string want = read_file(whole);
  ASSERT_EQ(lines(want), 120);
  EXPECT_FALSE(fs::exists(whole + ".partial"));

  const int64_t left = kill_early(out);
  ASSERT_GE(left, 5);
  ASSERT_LT(left, 120);
  EXPECT_FALSE(fs::exists(out));
  // a line that was being written
  std::ofstream(out + ".partial", std::ios::app) << "{\"prompt\":\"0";
  const std::string partial = read_file(out + ".partial");

  const Ended unasked = run(flags(out));
  EXPECT_EQ(unasked.code, 2);
  EXPECT_HAS(unasked.err, "out.jsonl.partial has the answers of a run that did not end");
  EXPECT_HAS(unasked.err, "--resume");
  const Ended other = run(flags(out) + std::vector<std::string>{"--resume", "--seed", "1"});
  EXPECT_EQ(other.code, 2);
  EXPECT_HAS(other.err, "other prompts, weights or options");
  std::vector<std::string> fewer = flags(out);
  fewer[4] = work_.write("one.jsonl", "{\"prompt\": \"0\", \"n\": 0}\n");
  const Ended few = run(fewer + std::vector<std::string>{"--resume"});
  EXPECT_EQ(few.code, 2);
  EXPECT_HAS(few.err, "more than these prompts have");
  EXPECT_TRUE(read_file(out + ".partial") == partial);

  const Ended resumed = run(flags(out) + std::vector<std::string>{"--resume"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_HAS(resumed.err,
             "answers of " + std::to_string((left - 1) / 3) + " prompts were there already");
  EXPECT_TRUE(read_file(out) == want);
  EXPECT_FALSE(fs::exists(out + ".partial"));
}

TEST_F(Answers, StayWhereFilesMayNotGrow) {
  const std::string out = work_ / "out.jsonl", whole = work_ / "whole.jsonl";
  ASSERT_EQ(run(flags(whole)).code, 0);
  const auto limit = [] {
    const rlimit bytes{20000, 20000};
    setrlimit(RLIMIT_FSIZE, &bytes);
  };
  const Ended ended = Process(flags(out), limit).wait();
  EXPECT_EQ(ended.code, 1) << ended.err;
  EXPECT_HAS(ended.err, "cannot write " + out + ".partial: File too large");
  EXPECT_HAS(ended.err, "go on with --resume");
  const Ended resumed = run(flags(out) + std::vector<std::string>{"--resume"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(read_file(out) == read_file(whole));
}

TEST_F(Answers, TwoRunsIntoOneFile) {
  const std::string out = work_ / "out.jsonl";
  Process first(flags(out));
  while (first.running() && read_file(out + ".partial").empty()) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  const Ended second = run(flags(out) + std::vector<std::string>{"--resume"});
  EXPECT_EQ(second.code, 2);
  EXPECT_HAS(second.err, "another run writes " + out + ".partial");
  EXPECT_EQ(first.wait().code, 0);
  EXPECT_EQ(lines(read_file(out)), 120);
}

// A device or a pipe is written to, not replaced by a file.
TEST_F(Answers, PlacesThatAreNoFiles) {
  const std::string pipe = work_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const auto lines_through = [&](const std::vector<std::string>& args) {
    Process process(args);
    std::ifstream in(pipe, std::ios::binary);
    const std::string got{std::istreambuf_iterator<char>(in), {}};
    EXPECT_EQ(process.wait().code, 0);
    return lines(got);
  };
  EXPECT_EQ(lines_through(flags(pipe)), 120);
  EXPECT_EQ(lines_through({"score", "--pretrained", model_, "--dataset",
                           work_.write("d.jsonl", chats(2)), "--output", pipe}),
            2);
  EXPECT_TRUE(fs::is_fifo(pipe));
  EXPECT_FALSE(fs::exists(pipe + ".partial"));

  const Ended folder = run(flags(work_ / "model"));
  EXPECT_EQ(folder.code, 2);
  EXPECT_HAS(folder.err, "model is a folder");
  const Ended logits = run({"logits", "--pretrained", model_, "--input",
                            work_.write("t.jsonl", "[1, 2]\n"), "--output", pipe});
  EXPECT_EQ(logits.code, 2);
  EXPECT_HAS(logits.err, "is not a regular file");
  EXPECT_TRUE(fs::is_fifo(pipe));
}

}  // namespace
}  // namespace hone::robust
