// --keep_best and --early_stopping.
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "app_test_util.h"
#include "train/best_eval.h"

namespace hone::test {
namespace {

TEST(BestEval, KeepsTheLowestAndCounts) {
  train::BestEval best;
  EXPECT_FALSE(best.known());
  EXPECT_TRUE(best.add(2, 1.5));
  EXPECT_FALSE(best.add(4, 1.5));
  EXPECT_FALSE(best.add(6, std::nan("")));
  EXPECT_EQ(best.since(), 2);
  train::BestEval again;
  again.restore(Json::parse(best.state().dump()));
  EXPECT_EQ(again.step(), 2);
  EXPECT_EQ(again.loss(), 1.5);
  EXPECT_EQ(again.since(), 2);
  EXPECT_TRUE(again.add(8, 1.25));
  EXPECT_EQ(again.since(), 0);
  again.restore(Json("rubbish"));
  EXPECT_EQ(again.step(), 8);
}

// A rate far too high: the eval loss falls, then rises.
std::string flags(const std::string& model) {
  return "sft -m " + model +
         " -d d.jsonl --eval_dataset e.jsonl --eval_steps 1 --eval_samples 0 --lora_rank 4 "
         "--lr 0.05 --warmup_steps 0 --lr_scheduler constant --max_steps 12 --batch_size 4 "
         "--dtype fp32 ";
}

std::string model_with_data(const Workplace& w) {
  const std::string model = w.model("qwen2");
  std::string text;
  for (int i = 0; i < 16; ++i)
    text += Json{{"tokens", {i, i + 1, i + 2, i + 3, i + 4, i + 5}}}.dump() + "\n";
  w.file("d.jsonl", text);
  w.file("e.jsonl", Json{{"tokens", {30, 31, 32, 33, 34}}}.dump() + "\n");
  return model;
}

std::vector<double> eval_losses(const fs::path& run) {
  std::vector<double> losses;
  for (const Json& line : read_lines(run / "metrics.jsonl"))
    losses.push_back(line.at("eval_loss").get<double>());
  return losses;
}

TEST(KeepBest, TheResultIsTheBestEvaluation) {
  const Workplace w;
  const std::string model = model_with_data(w);
  const Result r =
      w.hone(flags(model) + "--keep_best --save_steps 1 --save_total_limit 1 --save_dir o");
  ASSERT_EQ(r.code, 0) << r.err;
  const std::vector<double> losses = eval_losses(w / "o");
  ASSERT_EQ(losses.size(), 12U);
  const auto best = std::min_element(losses.begin(), losses.end()) - losses.begin() + 1;
  ASSERT_LT(best, 12) << "the run must get worse to show anything";
  EXPECT_NE(r.err.find("the result is step " + std::to_string(best)), std::string::npos) << r.err;
  // The weights of a run that ends there.
  const Result s = w.hone(flags(model) + "--save_dir p --save_steps " + std::to_string(best) +
                          " --save_total_limit 0");
  ASSERT_EQ(s.code, 0) << s.err;
  const std::string step = "p/checkpoints/step-" + std::to_string(best);
  EXPECT_EQ(read_file(w / "o/adapter_model.safetensors"),
            read_file(w / (step + "/adapter_model.safetensors")));
  EXPECT_NE(read_file(w / "o/adapter_model.safetensors"),
            read_file(w / "p/adapter_model.safetensors"));
  // Its checkpoint is kept, whatever the limit.
  EXPECT_TRUE(fs::exists(w / ("o/checkpoints/step-" + std::to_string(best))));

  // Ended with evaluations still to come, and gone on with: the same bytes.
  const Result half =
      w.hone(flags(model) + "--keep_best --save_dir q --save_steps 5", "timeout -s KILL 0.15");
  const auto go_on = [&] {
    return w.hone(flags(model) + "--keep_best --save_dir q --save_steps 5 --resume auto");
  };
  Result rest = go_on();
  // the killed one may take a moment to be gone
  for (int i = 0; i < 20 && rest.err.find("another process") != std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    rest = go_on();
  }
  ASSERT_EQ(rest.code, 0) << half.err << rest.err;
  EXPECT_EQ(read_file(w / "o/adapter_model.safetensors"),
            read_file(w / "q/adapter_model.safetensors"));
  EXPECT_EQ(eval_losses(w / "q"), losses);
}

TEST(EarlyStopping, EndsTheRunAndResumesTheSame) {
  const Workplace w;
  const std::string model = model_with_data(w);
  const Result r = w.hone(flags(model) + "--early_stopping 2 --keep_best --save_dir o");
  ASSERT_EQ(r.code, 0) << r.err;
  const std::vector<double> losses = eval_losses(w / "o");
  ASSERT_LT(losses.size(), 12U) << r.err;
  const auto best = std::min_element(losses.begin(), losses.end()) - losses.begin();
  EXPECT_EQ(losses.size(), static_cast<size_t>(best) + 3);
  EXPECT_NE(r.err.find("stopped early after step " + std::to_string(losses.size())),
            std::string::npos)
      << r.err;
  EXPECT_NE(r.err.find("next: hone chat"), std::string::npos);
  const Result again =
      w.hone(flags(model) + "--early_stopping 2 --keep_best --save_dir o --resume auto");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.err.find("nothing is left to do"), std::string::npos) << again.err;
}

TEST(KeepBest, NeedsSomethingToEvaluateOn) {
  const Workplace w;
  const std::string model = model_with_data(w);
  for (const char* flag : {"--keep_best", "--early_stopping 3"}) {
    const Result r = w.hone("sft -m " + model + " -d d.jsonl --save_dir o " + flag);
    EXPECT_EQ(r.code, 2);
    EXPECT_NE(r.err.find("give --eval_dataset too"), std::string::npos) << r.err;
  }
}

}  // namespace
}  // namespace hone::test
