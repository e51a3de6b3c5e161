// hone kto against TRL's KTOTrainer (tools/golden_preference.py), and what must hold without one.
#include <cmath>

#include "preference_runs.h"

namespace hone {
namespace {

using namespace plan_test;

class Kto : public PreferenceRuns {
 protected:
  Kto() : PreferenceRuns("kto", "labels.jsonl") {}
};

// Every number that TRL logs in ten steps of fp32, within 1e-4 of it or of 1 (measured: 7e-6); what
// it doesn't log, since a step has no answer of a kind, isn't logged here.
TEST_F(Kto, TenStepsAreTrls) {
  std::ifstream in(kPreferenceFixture + "/trl_kto.json");
  const Json runs = Json::parse(in);
  for (const auto& [name, run] : runs.items()) {
    const std::vector<Json> lines = ten_steps(name, run);
    ASSERT_EQ(lines.size(), 10u) << name;
    int compared = 0;
    for (const auto& [metric, values] : run.items()) {
      if (metric == "flags" || metric == "adapter") continue;
      for (size_t s = 0; s < 10; ++s) {
        EXPECT_EQ(lines[s].contains(metric), !values[s].is_null()) << name << " " << metric << s;
        if (values[s].is_null() || !lines[s].contains(metric)) continue;
        const double theirs = values[s], ours = lines[s][metric];
        EXPECT_NEAR(ours, theirs, 1e-4 * (1 + std::fabs(theirs)))
            << name << " " << metric << " " << s;
        ++compared;
      }
    }
    EXPECT_GT(compared, 50) << name;
  }
}

TEST_F(Kto, FirstRewardsAreZero) {
  int n = 0;
  for (const std::vector<std::string>& tuned :
       {std::vector<std::string>{"--lora_rank", "4"}, {"--lora_rank", "0"}}) {
    std::vector<std::string> flags = {"--batch_size", "8", "--max_steps", "1", "--dtype", "bf16"};
    flags.insert(flags.end(), tuned.begin(), tuned.end());
    const std::vector<Json> lines = metrics("zero" + std::to_string(n++), flags);
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_EQ(lines[0]["rewards/chosen"], 0.0);
    EXPECT_EQ(lines[0]["rewards/rejected"], 0.0);
    EXPECT_EQ(lines[0]["kl"], 0.0);
    EXPECT_EQ(lines[0]["loss"], 0.5);
  }
}

// Packing changes nothing, and a run that is gone on with ends with the same bytes: full tuning,
// whose reference is computed again.
TEST_F(Kto, IsTheSameHoweverItIsPackedAndGoneOnWith) {
  const std::vector<std::string> flags = {
      "--batch_size", "8",    "--max_steps",  "4",    "--lora_rank",    "0",
      "--dtype",      "fp32", "--save_steps", "2",    "--eval_dataset", data_,
      "--eval_steps", "2",    "--lr",         "1e-3", "--eval_samples", "0"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), flags.begin(), flags.end());
    return more;
  };
  const std::vector<Json> whole = metrics("whole", with({})),
                          apart = metrics("apart", with({"--micro_batch_tokens", "1"}));
  ASSERT_EQ(whole.size(), 4u);
  ASSERT_EQ(apart.size(), 4u);
  for (const auto& [metric, value] : whole[0].items()) {
    if (metric.starts_with("tokens_per") || metric == "peak_memory") continue;
    EXPECT_NEAR(apart[0][metric].get<double>(), value.get<double>(),
                1e-6 * (1 + std::fabs(value.get<double>())))
        << metric;
  }
  EXPECT_LT(whole[3]["eval_loss"], whole[1]["eval_loss"]);
  std::string checkpoint;
  for (const auto& entry : fs::directory_iterator(folder_ / "whole/checkpoints"))
    if (checkpoint.empty() || entry.path().string() < checkpoint)
      checkpoint = entry.path().string();
  const std::vector<Json> rest = metrics("rest", with({"--resume", checkpoint}));
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[1]["loss"], whole[3]["loss"]);
  EXPECT_EQ(bytes("rest/model.safetensors"), bytes("whole/model.safetensors"));
}

TEST_F(Kto, WhatIsRefused) {
  const auto refused = [&](std::vector<std::string> flags, const std::string& word) {
    const Ran ran = train("refused", std::move(flags));
    EXPECT_EQ(ran.code, 2) << ran.text;
    EXPECT_NE(ran.text.find(word), std::string::npos) << ran.text;
    EXPECT_FALSE(fs::exists(folder_ / "refused"));
  };
  refused({"--batch_size", "1"}, "no other answer");
  refused({"--loss", "sigmoid"}, "is not known to kto");
  refused({"--auto_weight"}, "--desirable_weight");
  refused({"--reference", "base"}, "all weights are tuned");
  refused({"--desirable_weight", "-1"}, "is negative");
  data_ = folder_.write("bad.jsonl", R"({"prompt":"a","completion":"b","label":"yes"})"
                                     "\n");
  refused({}, "a \"label\" that is the string \"yes\"");
  data_ = kPreferenceFixture + "/pairs.jsonl";
  refused({}, "expected an answer with a \"label\"");
}

// Conversations with labels, and how records are shown.
TEST_F(Kto, ConversationsWithLabels) {
  const std::string data = folder_.write(
      "chats.jsonl",
      R"({"messages":[{"role":"user","content":"Q"},{"role":"assistant","content":"A"}],"label":true})"
      "\n"
      R"({"conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"B"}],"kto_tag":false})"
      "\n");
  data_ = data;
  const std::vector<Json> lines =
      metrics("chats", {"--batch_size", "2", "--lora_rank", "2", "--max_steps", "1"});
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_TRUE(lines[0].contains("rewards/chosen") && lines[0].contains("rewards/rejected"));
  EXPECT_EQ(lines[0]["trained_tokens"], 4);
  const Ran plan = run_hone(
      {"plan", "kto", "--pretrained", kPreferenceFixture + "/model", "--json", "--lora_rank", "2"},
      folder_);
  EXPECT_EQ(plan.code, 0) << plan.text;
}

}  // namespace
}  // namespace hone
