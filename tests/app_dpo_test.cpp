// hone dpo against TRL's DPOTrainer (tools/golden_preference.py), and what must hold without one.
#include <cmath>

#include "preference_runs.h"

namespace hone {
namespace {

using namespace plan_test;

class Dpo : public PreferenceRuns {
 protected:
  Dpo() : PreferenceRuns("dpo", "pairs.jsonl") {}
};

// Every number that TRL logs in ten steps of fp32, within 1e-4 of it or of 1 (measured: 7e-6).
TEST_F(Dpo, TenStepsAreTrls) {
  std::ifstream in(kPreferenceFixture + "/trl.json");
  const Json runs = Json::parse(in);
  for (const auto& [name, run] : runs.items()) {
    const std::vector<Json> lines = ten_steps(name, run);
    ASSERT_EQ(lines.size(), 10u) << name;
    for (const auto& [metric, values] : run.items()) {
      if (metric == "flags" || metric == "adapter") continue;
      for (size_t s = 0; s < 10; ++s) {
        const double theirs = values[s], ours = lines[s][metric];
        EXPECT_NEAR(ours, theirs, 1e-4 * (1 + std::fabs(theirs)))
            << name << " " << metric << " " << s;
      }
    }
  }
}

// The reference is what was loaded: before the first update nothing differs, not in the last bit.
TEST_F(Dpo, FirstRewardsAreZero) {
  int n = 0;
  for (const std::vector<std::string>& tuned :
       {std::vector<std::string>{"--lora_rank", "4"},
        {"--adapter", kPreferenceFixture + "/adapter"},
        {"--adapter", kPreferenceFixture + "/adapter0", "--reference", "base"},
        {"--lora_rank", "0"}}) {
    for (const char* dtype : {"bf16", "fp32"}) {
      std::vector<std::string> flags = {
          "--batch_size",         "8",  "--max_steps", "2", "--dtype", dtype,
          "--micro_batch_tokens", "90", "-g"};
      flags.insert(flags.end(), tuned.begin(), tuned.end());
      const std::vector<Json> lines = metrics("zero" + std::to_string(n++), flags);
      ASSERT_EQ(lines.size(), 2u);
      for (const char* name : {"rewards/chosen", "rewards/rejected", "rewards/margins"}) {
        EXPECT_EQ(lines[0][name], 0.0) << tuned[0] << " " << dtype;
        EXPECT_NE(lines[1][name], 0.0) << tuned[0] << " " << dtype;
      }
      EXPECT_EQ(lines[0]["loss"], -std::log(0.5));
    }
  }
}

// Loss, gradient norm and metrics of a step don't depend on how its pairs are packed, whatever
// couples them.
TEST_F(Dpo, EveryLossIsTheSameHoweverItIsPacked) {
  int n = 0;
  for (const std::vector<std::string>& loss : {std::vector<std::string>{"sigmoid"},
                                               {"exo_pair", "--label_smoothing", "0.01"},
                                               {"sigmoid,sft", "--loss_weights", "1,0.5"},
                                               {"aot", "--label_smoothing", "0.1"},
                                               {"aot_unpaired"},
                                               {"sigmoid_norm"},
                                               {"cpo", "--label_smoothing", "0.1"},
                                               {"simpo", "--cpo_alpha", "0.5"},
                                               {"alphapo", "--alpha", "0.2"},
                                               {"orpo"}}) {
    const auto step = [&](const std::string& run, const std::string& tokens) {
      std::vector<std::string> flags = {"--batch_size",
                                        "8",
                                        "--max_steps",
                                        "1",
                                        "--dtype",
                                        "fp32",
                                        "--lr",
                                        "1e-3",
                                        "--adapter",
                                        kPreferenceFixture + "/adapter",
                                        "--micro_batch_tokens",
                                        tokens,
                                        "--loss"};
      flags.insert(flags.end(), loss.begin(), loss.end());
      const std::vector<Json> lines = metrics(run + std::to_string(n), flags);
      return lines.empty() ? Json() : lines[0];
    };
    const Json together = step("together", "4096"), apart = step("apart", "1");
    int compared = 0;
    for (const auto& [metric, value] : together.items()) {
      if (metric.starts_with("tokens_per") || metric == "peak_memory") continue;
      EXPECT_NEAR(apart[metric].get<double>(), value.get<double>(),
                  1e-6 * (1 + std::fabs(value.get<double>())))
          << loss[0] << " " << metric;
      ++compared;
    }
    EXPECT_GE(compared, 11);
    ++n;
  }
}

TEST_F(Dpo, EvaluatesAndGoesOnWithTheSameBits) {
  const std::vector<std::string> flags = {"--batch_size",   "4",    "--max_steps",           "6",
                                          "--lora_rank",    "2",    "--save_steps",          "3",
                                          "--eval_dataset", data_,  "--eval_steps",          "3",
                                          "--eval_samples", "1",    "--eval_max_new_tokens", "4",
                                          "--lr",           "1e-3", "--save_total_limit",    "0"};
  const std::vector<Json> lines = metrics("whole", flags);
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_FALSE(lines[1].contains("eval_loss"));
  EXPECT_LT(lines[5]["eval_loss"], lines[2]["eval_loss"]);
  EXPECT_GT(lines[5]["eval_rewards/margins"], 0);
  std::vector<std::string> again = flags;
  std::string checkpoint;
  for (const auto& entry : fs::directory_iterator(folder_ / "whole/checkpoints"))
    if (checkpoint.empty() || entry.path().string() < checkpoint)
      checkpoint = entry.path().string();
  again.insert(again.end(), {"--resume", checkpoint});
  const std::vector<Json> rest = metrics("rest", again);
  ASSERT_EQ(rest.size(), 3u);
  EXPECT_EQ(rest[2]["loss"], lines[5]["loss"]);
  EXPECT_EQ(bytes("rest/adapter_model.safetensors"), bytes("whole/adapter_model.safetensors"));
}

// Its own run.json says the run again.
TEST_F(Dpo, RunJsonIsAConfiguration) {
  const std::vector<Json> lines =
      metrics("a", {"--batch_size", "4", "--max_steps", "2", "--lora_rank", "2", "--loss",
                    "sigmoid,bco_pair", "--loss_weights", "0.8,0.2", "--beta", "0.3"});
  const Ran ran =
      run_hone({"dpo", "--config", folder_ / "a/run.json", "--save_dir", folder_ / "b"}, folder_);
  EXPECT_EQ(ran.code, 0) << ran.text;
  EXPECT_EQ(bytes("a/adapter_model.safetensors"), bytes("b/adapter_model.safetensors"));
}

TEST_F(Dpo, PlansTheStepItRuns) {
  const auto plan = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"plan", "dpo", "--pretrained", kPreferenceFixture + "/model",
                               "--json", "--max_length", "64"});
    const Ran ran = run_hone(more, folder_);
    EXPECT_EQ(ran.code, 0) << ran.text;
    return ran.code == 0 ? Json::parse(ran.text) : Json();
  };
  const Json lora = plan({"--lora_rank", "2"}),
             simpo = plan({"--lora_rank", "2", "--loss", "simpo"});
  EXPECT_EQ(lora["trainable_parameters"], simpo["trainable_parameters"]);
  // The pass without the adapter is work that a loss without reference hasn't got.
  EXPECT_GT(lora["micro_batch"]["gemm_flops"].get<double>(),
            1.2 * simpo["micro_batch"]["gemm_flops"].get<double>());
}

TEST_F(Dpo, OptionsThatCouldNotActAreRefused) {
  for (const auto& [flags, word] : {std::pair<std::vector<std::string>, std::string>{
                                        {"--label_smoothing", "0.1"}, "--label_smoothing has no"},
                                    {{"--loss", "simpo,sft"}, "give it alone"},
                                    {{"--loss", "simpo", "--alpha", "1"}, "it is of alphapo"},
                                    {{"--loss", "orpo", "--reference", "base"}, "with a reference"},
                                    {{"--cpo_alpha", "1"}, "it is of cpo"},
                                    {{"--loss", "alphapo"}, "is simpo"},
                                    {{"--reference", "base"}, "all weights are tuned"},
                                    {{"--loss", "nonsense"}, "is not known to dpo"},
                                    {{"--length_normalization"}, "sigmoid_norm"},
                                    {{"--gamma", "1"}, "only --loss simpo"},
                                    {{"--lam", "0.5"}, "use --beta"}}) {
    const Ran ran = train("refused", flags);
    EXPECT_EQ(ran.code, 2) << ran.text;
    EXPECT_NE(ran.text.find(word), std::string::npos) << ran.text;
    EXPECT_FALSE(fs::exists(folder_ / "refused"));
  }
}

TEST_F(Dpo, PairsOfEqualSidesAreNamed) {
  const std::string data =
      folder_.write("some.jsonl", R"({"prompt":"a","chosen":"b","rejected":"c"})"
                                  "\n"
                                  R"({"prompt":"a","chosen":"b","rejected":"b"})"
                                  "\n");
  const Ran ran = run_hone({"dpo", "--pretrained", kPreferenceFixture + "/model", "--dataset", data,
                            "--save_dir", folder_ / "run", "--lora_rank", "2"},
                           folder_);
  EXPECT_EQ(ran.code, 0) << ran.text;
  EXPECT_NE(ran.text.find("1 of 2 samples are pairs of equal sides"), std::string::npos)
      << ran.text;
}

}  // namespace
}  // namespace hone
