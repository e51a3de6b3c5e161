// --memory below what the weights take: they come from disk, the result is the same, the promise is
// kept.
#include "robust_util.h"

namespace hone::robust {
namespace {

TEST(Memory, WeightsWithoutRoomAreReadFromDisk) {
  const TempFolder work;
  Json config = tiny_config();
  config["hidden_size"] = 192;
  config["intermediate_size"] = 768;
  config["num_hidden_layers"] = 20;
  config["torch_dtype"] = "bfloat16";
  make_model(work, work / "model", "bf16", config);
  const std::string data = work.write("data.jsonl", chats(12));
  const std::vector<std::string> flags = {"--pretrained",
                                          work / "model",
                                          "--dataset",
                                          data,
                                          "--lora_rank",
                                          "2",
                                          "--max_steps",
                                          "3",
                                          "--threads",
                                          "1",
                                          "--micro_batch_tokens",
                                          "256",
                                          "-g",
                                          "--max_length",
                                          "256"};
  const auto plan = [&](const std::vector<std::string>& more) {
    const Ended e = run(std::vector<std::string>{"plan", "sft"} + flags + more +
                        std::vector<std::string>{"--json"});
    EXPECT_EQ(e.code, 0) << e.err;
    return Json::parse(e.out, nullptr, false);
  };
  const auto train = [&](const std::string& out, const std::vector<std::string>& more) {
    const Ended e = run(std::vector<std::string>{"sft"} + flags + more +
                        std::vector<std::string>{"--save_dir", out});
    EXPECT_EQ(e.code, 0) << e.err;
    return read_file(out + "/adapter_model.safetensors");
  };
  const Json whole = plan({});
  const auto mapped = whole["memory_by_kind"]["mapped weights"].get<int64_t>();
  ASSERT_GT(mapped, 20 << 20);
  EXPECT_EQ(whole["disk_bytes"], 0);
  const int64_t memory = whole["peak_memory"].get<int64_t>() - mapped * 6 / 10;
  const std::vector<std::string> limit = {"--memory", std::to_string(memory)};
  const Json streamed = plan(limit);
  EXPECT_EQ(streamed["memory_by_kind"]["mapped weights"], 0);
  const auto room = streamed["memory_by_kind"]["streamed weights"].get<int64_t>();
  EXPECT_LT(room, mapped / 2);
  EXPECT_EQ(streamed["disk_bytes"], 2 * (mapped - room));
  EXPECT_LE(streamed["peak_memory"].get<int64_t>(), memory);

  const std::string resident = train(work / "resident", {});
  ASSERT_FALSE(resident.empty());
  EXPECT_TRUE(train(work / "streamed", limit) == resident);
  std::istringstream steps(read_file(work / "streamed/metrics.jsonl"));
  int64_t used = 0;
  for (std::string line; std::getline(steps, line);)
    used = std::max(used, Json::parse(line)["peak_memory"].get<int64_t>());
  EXPECT_LE(used, memory);
  EXPECT_GT(used, memory / 2);
  // by hand, and less than the largest blocks take
  EXPECT_TRUE(train(work / "by_hand", {"--weights_memory", "6MiB"}) == resident);
  const Ended less =
      run(std::vector<std::string>{"sft"} + flags +
          std::vector<std::string>{"--weights_memory", "64KiB", "--save_dir", work / "less"});
  EXPECT_EQ(less.code, 2);
  EXPECT_NE(less.err.find("the largest parts of the model need"), std::string::npos) << less.err;
  EXPECT_FALSE(fs::exists(work / "less"));
}

}  // namespace
}  // namespace hone::robust
