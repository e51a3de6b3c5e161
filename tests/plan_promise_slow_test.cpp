// --memory is kept, whatever sample comes, or refused before anything is loaded.
#include <cstdio>

#include "plan_run.h"

namespace hone {
namespace {

using namespace plan_test;

class Promise : public ::testing::Test {
 protected:
  static constexpr int64_t kLength = 256;
  void SetUp() override {
    model_ = make_model(folder_, "model", 512, 4, 16384, "fp32");
    // Short samples and, late, one of full length: all tokens trained.
    std::ofstream out(folder_ / "data.jsonl");
    for (int i = 0; i < 24; ++i) {
      const int64_t n = i == 20 ? kLength : 12 + i * 5;
      Json tokens = Json::array(), trained = Json::array();
      for (int64_t t = 0; t < n; ++t) {
        tokens.push_back((i * 7919 + t * 31 + 1) % 256);
        trained.push_back(t > 0 ? 1 : 0);
      }
      out << Json{{"tokens", tokens}, {"trained", trained}}.dump() << "\n";
    }
  }
  std::vector<std::string> flags() const {
    return {"--pretrained", model_,
            "--dataset",    folder_ / "data.jsonl",
            "--max_length", std::to_string(kLength),
            "--batch_size", "8",
            "--lora_rank",  "8",
            "--overwrite",  "--save_dir",
            folder_ / "run"};
  }
  size_t planned(const std::vector<std::string>& more) const {
    std::vector<std::string> args = {"plan", "sft", "--json"};
    for (const std::string& a : flags()) args.push_back(a);
    for (const std::string& a : more) args.push_back(a);
    const Ran r = run_hone(args, folder_);
    EXPECT_EQ(r.code, 0) << r.text;
    return r.code == 0 ? Json::parse(r.text)["peak_memory"].get<size_t>() : 0;
  }
  Ran run(size_t memory) const {
    std::vector<std::string> args = {"sft", "--memory", std::to_string(memory)};
    for (const std::string& a : flags()) args.push_back(a);
    return run_hone(args, folder_);
  }
  TempFolder folder_;
  std::string model_;
};

TEST_F(Promise, IsKept) {
  const size_t most = planned({"--micro_batch_tokens", "2048"});
  const size_t least = planned({"-g", "--micro_batch_tokens", "255"});
  ASSERT_GT(most, least + least / 8);
  for (const double share : {0.08, 0.5, 1.1}) {
    const auto memory = least + static_cast<size_t>(share * static_cast<double>(most - least));
    const Ran r = run(memory);
    ASSERT_EQ(r.code, 0) << r.text;
    std::printf("--memory %.1f MB: peak %.1f MB\n", static_cast<double>(memory) / 1e6,
                static_cast<double>(r.peak) / 1e6);
    EXPECT_LE(r.peak, memory);
    // More memory is used where there is more: the promise is not kept by always taking the least.
    if (share > 1) {
      EXPECT_GT(r.peak, least);
    }
    // "... N major page faults after the first step": pages are not dropped and read again.
    const size_t at = r.text.find(" major page faults");
    ASSERT_NE(at, std::string::npos) << r.text;
    const size_t begin = r.text.rfind(' ', at - 1) + 1;
    EXPECT_LE(std::stol(r.text.substr(begin, at - begin)), 8) << r.text;
  }
}

TEST_F(Promise, IsRefusedBeforeLoading) {
  const size_t least = planned({"-g", "--micro_batch_tokens", "255"});
  const Ran r = run(least / 2);
  EXPECT_EQ(r.code, 2);
  EXPECT_NE(r.text.find("the least this run needs is"), std::string::npos) << r.text;
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

// In a memory cgroup without swap, so that the kernel ends a run that takes more.
TEST_F(Promise, IsKeptInACgroup) {
  // The second version's one tree, or the first version's tree of the memory controller.
  const fs::path second = "/sys/fs/cgroup", first = second / "memory";
  const bool is_second = fs::exists(second / "cgroup.controllers");
  const fs::path group = (is_second ? second : first) / ("hone-test-" + std::to_string(getpid()));
  std::error_code error;
  if (!fs::create_directory(group, error)) GTEST_SKIP() << "no memory cgroup can be made here";
  const auto set = [&](const char* file, const std::string& value) {
    if (!fs::exists(group / file)) return false;
    std::ofstream out(group / file);
    out << value << std::flush;
    return out.good();
  };
  const size_t least = planned({"-g", "--micro_batch_tokens", "255"});
  const size_t memory = least + least / 10;
  const std::string limit = std::to_string(memory);
  const bool usable = set(is_second ? "memory.max" : "memory.limit_in_bytes", limit);
  set(is_second ? "memory.swap.max" : "memory.swappiness", "0");
  if (!usable) {
    fs::remove(group, error);
    GTEST_SKIP() << "the memory controller is not available here";
  }
  std::string command = "echo $$ > " + (group / "cgroup.procs").string() + " && exec " +
                        HONE_BINARY + " sft --memory " + limit;
  for (const std::string& a : flags()) command += " '" + a + "'";
  const Ran r = run_program({"/bin/sh", "-c", command}, folder_);
  fs::remove(group, error);
  EXPECT_EQ(r.code, 0) << r.text;
  EXPECT_LE(r.peak, memory);
  EXPECT_GT(r.peak, memory / 2);
}

}  // namespace
}  // namespace hone
