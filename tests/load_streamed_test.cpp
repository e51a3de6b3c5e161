// Weights that are read from disk as they are needed: the bits of those that are mapped, whatever
// the budget; no more is read than the order of use asks for; what can't be read is said.
#include "support/small_model.h"

namespace hone {
namespace {

using test::compute, test::error_of, test::Results, test::SmallModel;
namespace fs = std::filesystem;

constexpr int kLayers = 6;

size_t least(const fs::path& folder) {
  const std::string error = error_of([&] { compute(folder, DType::bf16, 1); });
  const size_t at = error.find("need ");
  EXPECT_NE(at, std::string::npos) << error;
  return static_cast<size_t>((std::stod(error.substr(at + 5)) + 0.0005) * (1 << 30));
}

TEST(Streamed, TheBitsOfMappedWeights) {
  for (const bool fp8 : {false, true}) {
    const SmallModel model(fp8, {}, true, kLayers);
    for (const BlockPolicy policy : {BlockPolicy::recompute, BlockPolicy::keep}) {
      const Results mapped = compute(model.path(), DType::bf16, 0, policy);
      const uint64_t file = fs::file_size(model.path() / "model.safetensors");
      EXPECT_EQ(mapped.streamed.bytes_read, 0u);
      for (const size_t budget : {least(model.path()), least(model.path()) * 2, size_t{1} << 30}) {
        const Results streamed = compute(model.path(), DType::bf16, budget, policy);
        EXPECT_EQ(streamed.loss, mapped.loss);
        EXPECT_EQ(streamed.gradients, mapped.gradients);
        EXPECT_EQ(streamed.scores, mapped.scores);
        EXPECT_EQ(streamed.drawn, mapped.drawn);
        EXPECT_EQ(streamed.logprobs, mapped.logprobs);
        // once where all has room; else again and again
        if (budget == size_t{1} << 30) {
          EXPECT_LE(streamed.streamed.units_read, kLayers + 2u);
          EXPECT_LT(streamed.streamed.bytes_read, file + file / 4);
        } else if (budget == least(model.path())) {
          EXPECT_GT(streamed.streamed.units_read, 2u * kLayers);
        }
      }
    }
  }
}

// Up and down again, then up: with room for k of n blocks, n - k are read in each direction.
TEST(Streamed, WhatIsNeededLastGoesFirst) {
  const SmallModel folder(false, {}, true, kLayers);
  Machine machine({.threads = 1});
  const size_t block = 2 * (2 * 192 * 192 + 2 * 64 * 192 + 3 * 320 * 192);
  load::Model model(machine, {.folder = folder.path(), .weights_memory = 4 * block});
  model.load();
  const ParamStore& params = model.params();
  const auto use = [&](int unit) {
    const Lease lease = params.lease(
        params.find("model.layers." + std::to_string(unit - 1) + ".mlp.down_proj.weight"));
  };
  const auto sweeps = [&](int n) {
    for (int i = 0; i < n; ++i) {
      for (int u = 1; u <= kLayers; ++u) use(u);
      for (int u = kLayers; u >= 1; --u) use(u);
    }
  };
  sweeps(2);
  const uint64_t before = model.streamed().units_read;
  sweeps(4);
  const uint64_t read = model.streamed().units_read - before;
  // three blocks and what is small have room: 3 of 6 a direction, and what is read ahead of use
  EXPECT_GE(read, 4u * 2 * 3 - 4);
  EXPECT_LE(read, 4u * 2 * 4 + 4);
}

TEST(Streamed, WhatCannotBeReadIsSaid) {
  const SmallModel nan(true, [](std::vector<float>& s) { s[3] = std::nanf(""); });
  EXPECT_NE(error_of([&] {
              compute(nan.path(), DType::bf16, 1 << 20);
            }).find("model.layers.1.mlp.up_proj.weight_scale_inv holds 1 value(s)"),
            std::string::npos);

  const SmallModel cut(false, {}, true, kLayers);
  Machine machine({.threads = 1});
  load::Model model(machine, {.folder = cut.path(), .weights_memory = least(cut.path())});
  model.load();
  const fs::path file = cut.path() / "model.safetensors";
  fs::resize_file(file, 4096);
  const std::string error = error_of([&] {
    for (ParamId id = 0; id < model.params().count(); ++id) model.params().lease(id);
  });
  EXPECT_NE(error.find("it was cut while it was used"), std::string::npos) << error;
}

}  // namespace
}  // namespace hone
