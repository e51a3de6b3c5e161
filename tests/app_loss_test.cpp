// hone loss: fields and flags in, loss and adjoints out.
#include "app_test_util.h"

namespace hone::test {
namespace {

const char* kPairs = R"({"samples": [
  {"pair": 0, "chosen": true, "logprob": [-1, -0.5, -2], "ref_logprob": [-1.2, -0.7, -1.8]},
  {"pair": 0, "chosen": false, "logprob": [-1.5, -0.9], "ref_logprob": [-1.1, -0.8]}]})";

TEST(Loss, DpoWritesLossAdjointsAndMetrics) {
  const Workplace w;
  w.file("b.json", kPairs);
  const Result r = w.hone("loss dpo --loss sigmoid --beta 0.1 --input b.json --output r.json");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("adjoint against"), std::string::npos) << r.err;
  const Json out = Json::parse(read_file(w / "r.json"));
  // -log sigmoid(0.1 (0.2 + 0.5)), and its derivative by each token
  const double delta = 0.1 * 0.7;
  EXPECT_NEAR(out.at("loss").get<double>(), std::log1p(std::exp(-delta)), 1e-12);
  const double d = -0.1 / (1 + std::exp(delta));
  for (size_t t = 0; t < 3; ++t) EXPECT_NEAR(out.at("dlogprob")[0][t].get<double>(), d, 1e-12);
  for (size_t t = 0; t < 2; ++t) EXPECT_NEAR(out.at("dlogprob")[1][t].get<double>(), -d, 1e-12);
  EXPECT_EQ(out.at("metrics").at("rewards/accuracies"), 1.0);
  // By another way in, and several losses with weights.
  const Result two =
      w.hone("loss dpo --loss sigmoid,sft --loss_weights 1,0.5 --input -", "", "b.json");
  ASSERT_EQ(two.code, 0) << two.err;
  EXPECT_NEAR(Json::parse(two.out).at("loss").get<double>(),
              out.at("loss").get<double>() + 0.5 * 3.5 / 3, 1e-12);
}

TEST(Loss, GroupsOfRewardsBecomeAdvantages) {
  const Workplace w;
  w.file("g.json", R"({"samples": [{"group": 0, "rewards": [1, null], "logprob": [-1]},
                                   {"group": 0, "rewards": [0, null], "logprob": [-2, -1]}]})");
  const Result r = w.hone("loss grpo --scale_rewards false --input g.json");
  ASSERT_EQ(r.code, 0) << r.err;
  const Json out = Json::parse(r.out);
  EXPECT_EQ(out.at("advantages"), Json({0.5, -0.5}));
  // On-policy: the derivative is minus the advantage, over the tokens.
  EXPECT_NEAR(out.at("dlogprob")[0][0].get<double>(), -0.5 / 3, 1e-12);
  EXPECT_NEAR(out.at("dlogprob")[1][1].get<double>(), 0.5 / 3, 1e-12);
  EXPECT_EQ(out.at("metrics").at("frac_reward_zero_std"), 0.0);
}

TEST(Loss, EveryObjectiveTakesItsFields) {
  const Workplace w;
  w.file("r.json", R"({"samples": [{"pair": 4, "chosen": false, "score": 0.5},
                                   {"pair": 4, "chosen": true, "score": 1.5, "margin": 1}]})");
  const Result reward = w.hone("loss reward --input r.json");
  ASSERT_EQ(reward.code, 0) << reward.err;
  EXPECT_NEAR(Json::parse(reward.out).at("loss").get<double>(), std::log(2.0), 1e-12);
  EXPECT_NEAR(Json::parse(reward.out).at("dscore")[1].get<double>(), -0.5, 1e-12);

  w.file("k.json", R"({"samples": [{"label": true, "logprob": [-1], "ref_logprob": [-1],
    "kl_logprob": [-2], "kl_ref_logprob": [-2]}]})");
  const Result kto = w.hone("loss kto --input k.json");
  ASSERT_EQ(kto.code, 0) << kto.err;
  EXPECT_NEAR(Json::parse(kto.out).at("loss").get<double>(), 0.5, 1e-12);

  w.file("p.json", R"({"samples": [{"logprob": [-1, -2], "old_logprob": [-1, -2],
    "ref_logprob": [-1, -2], "value": [0.1, 0.2], "old_value": [0.1, 0.2], "score": 1}]})");
  const Result ppo = w.hone("loss ppo --whiten_rewards false --input p.json");
  ASSERT_EQ(ppo.code, 0) << ppo.err;
  EXPECT_EQ(Json::parse(ppo.out).at("advantages")[0].size(), 2U);
  EXPECT_EQ(Json::parse(ppo.out).at("dvalue")[0].size(), 2U);
  w.file("d.json", kPairs);
  for (const char* command :
       {"loss cpo --loss simpo --cpo_alpha 0 -i d.json", "loss rloo --help", "loss orpo --help"})
    EXPECT_EQ(w.hone(command).code, 0) << command;
}

TEST(Loss, BadInputIsNamed) {
  const Workplace w;
  w.file("b.json", kPairs);
  const auto error = [&](const std::string& flags) {
    const Result r = w.hone("loss " + flags);
    EXPECT_EQ(r.code, 2) << flags;
    return r.err;
  };
  EXPECT_NE(error("dpo --loss sigmod -i b.json").find("sigmod"), std::string::npos);
  EXPECT_NE(error("kto -i b.json").find("\"label\""), std::string::npos);
  EXPECT_NE(error("orpo -i b.json").find("\"prompt_logprob\""), std::string::npos);
  EXPECT_NE(error("ppo -i b.json").find("\"old_logprob\""), std::string::npos);
  EXPECT_NE(error("grpo -i b.json").find("\"rewards\""), std::string::npos);
  EXPECT_NE(error("dpo").find("--input"), std::string::npos);
  for (
      const auto& [text, what] :
      {std::pair{"[", "not valid JSON"}, std::pair{"{\"samples\": []}", "at least one sample"},
       std::pair{R"({"samples": [{"logprob": ["x"]}]})", "\"logprob\" is not a number"},
       std::pair{R"({"samples": [{"logprob": [-1], "lgprob": 1}]})", "\"lgprob\""},
       std::pair{R"({"samples": [{"logprob": [-1]}, {"pair": 1}]})", "sample 2 has no"},
       std::pair{
           R"({"samples": [{"pair": 0, "chosen": true, "logprob": [-1], "ref_logprob": [-1, -2]}]})",
           "\"ref_logprob\" has 2 values"}}) {
    w.file("bad.json", text);
    EXPECT_NE(error("dpo -i bad.json").find(what), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace hone::test
