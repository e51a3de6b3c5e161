// hone plan sft: what it says of known models, how its numbers hang together, and one run against
// its plan. The whole matrix of runs is plan_matrix_slow_test.
#include <chrono>

#include "plan_run.h"

namespace hone {
namespace {

using namespace plan_test;

Json qwen_config() {
  return {{"architectures", {"Qwen2ForCausalLM"}},
          {"model_type", "qwen2"},
          {"hidden_size", 896},
          {"intermediate_size", 4864},
          {"num_hidden_layers", 24},
          {"num_attention_heads", 14},
          {"num_key_value_heads", 2},
          {"vocab_size", 151936},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 1000000.0},
          {"max_position_embeddings", 32768},
          {"tie_word_embeddings", true},
          {"hidden_act", "silu"},
          {"torch_dtype", "bfloat16"}};
}

Json llama_7b_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 4096},
          {"intermediate_size", 11008},
          {"num_hidden_layers", 32},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 32},
          {"vocab_size", 32000},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"max_position_embeddings", 4096},
          {"tie_word_embeddings", false},
          {"hidden_act", "silu"},
          {"torch_dtype", "bfloat16"}};
}

class PlanSft : public ::testing::Test {
 protected:
  // A folder with nothing but a config.
  std::string bare(const std::string& name, const Json& config) const {
    fs::create_directories(folder_ / name);
    folder_.write(name + "/config.json", config.dump());
    return folder_ / name;
  }
  Ran run(const std::string& model, std::vector<std::string> more) const {
    std::vector<std::string> args = {"plan", "sft", "--pretrained", model, "--max_length", "256"};
    args.insert(args.end(), more.begin(), more.end());
    return run_hone(args, folder_);
  }
  Json plan(const std::string& model, std::vector<std::string> more) const {
    more.push_back("--json");
    const Ran r = run(model, more);
    EXPECT_EQ(r.code, 0) << r.text;
    return r.code == 0 ? Json::parse(r.text) : Json();
  }
  TempFolder folder_;
};

TEST_F(PlanSft, CountsKnownModels) {
  const std::string qwen = bare("qwen", qwen_config());
  const Json lora = plan(qwen, {"--lora_rank", "8"});
  const int64_t base = 494032768, adapter = 4399104;  // as PEFT's print_trainable_parameters
  EXPECT_EQ(lora["trainable_parameters"], adapter);
  EXPECT_EQ(lora["parameters"], base + adapter);
  EXPECT_EQ(lora["result_bytes"], adapter * 4);
  EXPECT_EQ(lora["checkpoint_bytes"], adapter * 12);  // values and two moments
  const Json full = plan(qwen, {"--lora_rank", "0"});
  EXPECT_EQ(full["trainable_parameters"], base);
  EXPECT_EQ(full["result_bytes"], base * 2);
  EXPECT_EQ(full["checkpoint_bytes"], base * 12);
  // What is frozen stands in a checkpoint as it is.
  const int64_t embedding = int64_t{151936} * 896;
  const Json partly = plan(qwen, {"--lora_rank", "0", "--freeze", "model.embed_tokens.weight"});
  EXPECT_EQ(partly["trainable_parameters"], base - embedding);
  EXPECT_EQ(partly["checkpoint_bytes"], (base - embedding) * 12 + embedding * 2);
}

TEST_F(PlanSft, NeedsNoWeightsAndLittleTime) {
  const std::string llama = bare("llama", llama_7b_config());
  const auto begin = std::chrono::steady_clock::now();
  const Json p = plan(llama, {"--lora_rank", "8", "-g"});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took.count(), 1.0);
  const int64_t base = 6738415616;
  EXPECT_EQ(p["parameters"].get<int64_t>() - p["trainable_parameters"].get<int64_t>(), base);
  EXPECT_GT(p["peak_memory"], base * 2);  // bf16 weights
  // Work of a token: 2 FLOP a weight forward, as much for inputs' gradients, and a recomputation,
  // which leaves out what nobody needs.
  const double tokens = p["micro_batch_tokens"], flops = p["micro_batch"]["gemm_flops"];
  EXPECT_GT(flops / tokens, 2.0 * 2.5 * base);
  EXPECT_LT(flops / tokens, 2.0 * 3.2 * base);
}

TEST_F(PlanSft, MemoryHangsTogether) {
  const std::string qwen = bare("qwen", qwen_config());
  const auto peak = [&](std::vector<std::string> more) -> size_t {
    const Json p = plan(qwen, std::move(more));
    size_t sum = 0;
    for (const auto& [kind, bytes] : p["memory_by_kind"].items()) sum += bytes.get<size_t>();
    EXPECT_LE(sum, p["peak_memory"].get<size_t>());
    return p["peak_memory"];
  };
  const size_t lora = peak({"--lora_rank", "8", "-g", "--micro_batch_tokens", "1024"});
  EXPECT_GT(peak({"--lora_rank", "8", "--micro_batch_tokens", "1024"}), lora);
  EXPECT_GT(peak({"--lora_rank", "8", "-g", "--micro_batch_tokens", "4096"}), lora);
  EXPECT_GT(peak({"--lora_rank", "64", "-g", "--micro_batch_tokens", "1024"}), lora);
  // Full tuning of bf16 weights: fp32 master, gradient and two moments beside them.
  EXPECT_GT(peak({"--lora_rank", "0", "-g", "--micro_batch_tokens", "1024"}),
            lora + size_t{494032768} * 16 * 9 / 10);
}

TEST_F(PlanSft, MemoryChoosesOrSaysTheLeast) {
  const std::string qwen = bare("qwen", qwen_config());
  const Json plenty = plan(qwen, {"--lora_rank", "8", "--memory", "16GiB"});
  const Json little = plan(qwen, {"--lora_rank", "8", "--memory", "1400MiB"});
  EXPECT_FALSE(plenty["recompute"].get<bool>());
  EXPECT_LE(plenty["peak_memory"].get<size_t>(), size_t{16} << 30);
  EXPECT_LE(little["peak_memory"].get<size_t>(), size_t{1400} << 20);
  EXPECT_TRUE(little["recompute"].get<bool>() ||
              little["micro_batch_tokens"] < plenty["micro_batch_tokens"]);
  // less than the weights take: they come from disk
  const Json streamed = plan(qwen, {"--lora_rank", "8", "--memory", "900MiB"});
  EXPECT_EQ(streamed["memory_by_kind"]["mapped weights"], 0);
  EXPECT_GT(streamed["disk_bytes"].get<int64_t>(), 100 << 20);
  EXPECT_LE(streamed["peak_memory"].get<size_t>(), size_t{900} << 20);
  const Ran refused = run(qwen, {"--lora_rank", "8", "--memory", "400MiB"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.text.find("the least this run needs is"), std::string::npos) << refused.text;
}

TEST_F(PlanSft, OneRunTakesWhatWasPlanned) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory is not planned";
#endif
  const std::string model = make_model(folder_, "model", 256, 2, 8192, "bf16");
  const std::string data = make_tokens(folder_, 16, 128);
  const std::vector<std::string> flags = {"--dataset",
                                          data,
                                          "--micro_batch_tokens",
                                          "1016",
                                          "--lora_rank",
                                          "8",
                                          "--batch_size",
                                          "8",
                                          "--num_epochs",
                                          "1",
                                          "--overwrite",
                                          "-g",
                                          "--save_dir",
                                          folder_ / "run"};
  const Json planned = plan(model, flags);
  std::vector<std::string> args = {"sft", "--pretrained", model, "--max_length", "256"};
  args.insert(args.end(), flags.begin(), flags.end());
  const Ran ran = run_hone(args, folder_);
  ASSERT_EQ(ran.code, 0) << ran.text;
  EXPECT_NEAR(planned["peak_memory"].get<double>(), static_cast<double>(ran.peak),
              tolerance(ran.peak));
}

}  // namespace
}  // namespace hone
