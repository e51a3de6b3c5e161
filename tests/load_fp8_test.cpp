// Folders whose weights are FP8 in blocks of 128 x 128: the same bits as the same numbers in bf16,
// in training, scoring and generation; what is damaged is said.
#include "load/save.h"
#include "support/small_model.h"

namespace hone {
namespace {

using test::compute, test::error_of, test::Results, test::SmallModel, test::Json;
namespace fs = std::filesystem;

TEST(Fp8Folder, TheBitsOfItsNumbersInBf16) {
  const SmallModel fp8(true), plain(false);
  const Results a = compute(fp8.path(), DType::bf16), b = compute(plain.path(), DType::bf16);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_GT(a.loss, 1);
  EXPECT_EQ(a.gradients, b.gradients);
  double largest = 0;
  for (const auto& g : a.gradients)
    for (const double x : g) largest = std::max(largest, std::abs(x));
  EXPECT_GT(largest, 1e-3);
  EXPECT_EQ(a.scores, b.scores);
  EXPECT_EQ(a.drawn, b.drawn);
  EXPECT_EQ(a.logprobs, b.logprobs);
  // a byte a number and four a block, never expanded as a whole
  const uint64_t matrices = 2 * (2 * 192 * 192 + 2 * 64 * 192 + 3 * 320 * 192);
  EXPECT_EQ(b.mapped - a.mapped, matrices - 2 * 4 * (4 + 2 + 2 + 4 + 6 + 6 + 6));
}

TEST(Fp8Folder, AWholeModelIsTrainedAndSavedAsNumbers) {
  const SmallModel fp8(true), plain(false);
  const fs::path out = fs::path(testing::TempDir()) / "fp8-saved";
  fs::create_directories(out);
  std::string saved[2];
  for (int i = 0; i < 2; ++i) {
    Machine machine({.threads = 1});
    load::Model model(machine, {.folder = i == 0 ? fp8.path() : plain.path()});
    for (ParamId id = 0; id < model.params().count(); ++id)
      model.params().set_trainable(id, id % 2 == 0);  // the others are saved from what they are
    model.load();
    load::save_model(out, model);
    std::ifstream in(out / "model.safetensors", std::ios::binary);
    saved[i].assign(std::istreambuf_iterator<char>(in), {});
    const Json c = Json::parse(std::ifstream(out / "config.json"));
    EXPECT_FALSE(c.contains("quantization_config"));
  }
  fs::remove_all(out);
  EXPECT_FALSE(saved[0].empty());
  EXPECT_TRUE(saved[0] == saved[1]);
}

TEST(Fp8Folder, ThePlanKnowsItWithoutWeights) {
  const SmallModel fp8(true);
  const auto mapped = [&] {
    Machine machine({.threads = 1, .meta = true});
    load::Model model(machine, {.folder = fp8.path()});
    model.load();
    return model.mapped_bytes();
  };
  const uint64_t with_headers = mapped();
  fs::remove(fp8.path() / "model.safetensors");
  EXPECT_EQ(mapped(), with_headers);
}

TEST(Fp8Folder, WhatIsDamagedIsSaid) {
  const auto open = [](const fs::path& folder) {
    return error_of([&] { compute(folder, DType::bf16); });
  };
  const std::string missing = open(SmallModel(true, {}, false).path());
  EXPECT_NE(missing.find("scales \"model.layers.0.self_attn.q_proj.weight_scale_inv\" are missing"),
            std::string::npos)
      << missing;
  const SmallModel wrong(true, [](std::vector<float>& s) { s.pop_back(); });
  EXPECT_NE(open(wrong.path()).find("for a weight of [320, 192] they should be F32 [3, 2]"),
            std::string::npos)
      << open(wrong.path());
  const SmallModel nan(true, [](std::vector<float>& s) { s[3] = std::nanf(""); });
  EXPECT_NE(open(nan.path()).find("model.layers.1.mlp.up_proj.weight_scale_inv holds 1 value(s)"),
            std::string::npos)
      << open(nan.path());
}

}  // namespace
}  // namespace hone
