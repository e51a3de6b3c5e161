// Runs of a preference trainer on the model and data of tests/fixtures/preference.
#pragma once

#include "plan_run.h"

namespace hone::plan_test {

const std::string kPreferenceFixture = HONE_SOURCE_DIR "/tests/fixtures/preference";

class PreferenceRuns : public ::testing::Test {
 protected:
  PreferenceRuns(std::string command, const std::string& data)
      : data_(kPreferenceFixture + "/" + data), command_(std::move(command)) {}

  Ran train(const std::string& run, std::vector<std::string> more) const {
    more.insert(more.begin(),
                {command_, "--pretrained", kPreferenceFixture + "/model", "--dataset", data_,
                 "--save_dir", folder_ / run, "--max_length", "256", "--threads", "2"});
    return run_hone(more, folder_);
  }
  // The lines of a run that ends well.
  std::vector<Json> metrics(const std::string& run, std::vector<std::string> more) const {
    const Ran ran = train(run, std::move(more));
    EXPECT_EQ(ran.code, 0) << ran.text;
    std::vector<Json> lines;
    std::ifstream in(folder_ / (run + "/metrics.jsonl"));
    for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  // Ten steps in fp32 as tools/golden_preference.py has TRL make them; trl: a run of its file.
  std::vector<Json> ten_steps(const std::string& name, const Json& trl) const {
    std::vector<std::string> flags = {"--batch_size",   "4",     "--max_steps",    "10",
                                      "--lr",           "1e-3",  "--lr_scheduler", "constant",
                                      "--warmup_steps", "0",     "--weight_decay", "0",
                                      "--shuffle",      "false", "--dtype",        "fp32"};
    for (const Json& flag : trl["flags"]) flags.push_back(flag);
    if (trl["adapter"] != "") {
      flags.push_back("--adapter");
      flags.push_back(kPreferenceFixture + "/" + trl["adapter"].get<std::string>());
    }
    return metrics(name, flags);
  }
  std::string bytes(const std::string& path) const {
    std::ifstream in(folder_ / path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  TempFolder folder_;
  std::string data_;

 private:
  std::string command_;
};

}  // namespace hone::plan_test
