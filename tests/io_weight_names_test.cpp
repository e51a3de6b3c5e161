// Model folders whose tensors have other names, or whose head isn't what config.json says.
#include "io/weight_names.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "core/error.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kPlain = {
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.input_layernorm.weight",
    "model.norm.weight",
};

std::vector<std::string> renamed(const std::vector<std::string>& names) {
  const auto changed = canonical_names(names);
  std::vector<std::string> result;
  for (const std::string& name : names)
    result.push_back(changed.contains(name) ? changed.at(name) : name);
  return result;
}

// The plain names with something before them: before the body, and before the head.
std::vector<std::string> wrapped(const std::string& body, const std::string& head) {
  std::vector<std::string> names;
  for (const std::string& name : kPlain)
    names.push_back(name.starts_with("model.") ? body + name.substr(6) : head + name);
  return names;
}

TEST(WeightNames, PlainNamesStay) { EXPECT_TRUE(canonical_names(kPlain).empty()); }

TEST(WeightNames, WhatWrapsAModelIsTakenOff) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"module.model.", "module."},
      {"_orig_mod.model.", "_orig_mod."},
      {"module._orig_mod.model.", "module._orig_mod."},
      {"_fsdp_wrapped_module.model._fsdp_wrapped_module.", "_fsdp_wrapped_module."},
      {"base_model.model.model.", "base_model.model."},
      {"model.language_model.", ""},
      {"language_model.model.", "language_model."},
      {"model.model.", "model."},
      {"transformer.", "transformer."},
      {"", ""},
  };
  for (const auto& [body, head] : cases) EXPECT_EQ(renamed(wrapped(body, head)), kPlain) << body;
}

TEST(WeightNames, PartsWithinNamesAreTakenOff) {
  EXPECT_EQ(renamed({"model.layers.0.input_layernorm.weight",
                     "model.layers.0._orig_mod.mlp._checkpoint_wrapped_module.up_proj.weight",
                     "model.layers.0.self_attn.q_proj.base_layer.weight"}),
            (std::vector<std::string>{"model.layers.0.input_layernorm.weight",
                                      "model.layers.0.mlp.up_proj.weight",
                                      "model.layers.0.self_attn.q_proj.weight"}));
}

TEST(WeightNames, WhatIsNotTheModelsStays) {
  const std::vector<std::string> others = {"model.visual.patch_embed.weight", "vision.norm.weight"};
  std::vector<std::string> names = wrapped("model.language_model.", "");
  names.insert(names.end(), others.begin(), others.end());
  std::vector<std::string> expected = kPlain;
  expected.insert(expected.end(), others.begin(), others.end());
  EXPECT_EQ(renamed(names), expected);
}

TEST(WeightNames, TwoModelsAreLeftAlone) {
  std::vector<std::string> names = wrapped("a.", "a.");
  for (const std::string& name : wrapped("b.", "b.")) names.push_back(name);
  EXPECT_EQ(renamed(names), names);
  EXPECT_TRUE(canonical_names({"module.model.norm.weight", "model.norm.weight"}).empty());
}

class WeightFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("hone_weight_names_{}", getpid());
    fs::create_directories(folder_);
    config_.tie_word_embeddings = true;
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Tensors of two numbers: name -> the first of them; bf16 where the name ends in ":bf16".
  CheckpointReader open(const std::map<std::string, float>& tensors) {
    std::vector<TensorDecl> decls;
    for (const auto& [name, value] : tensors) {
      const bool half = name.ends_with(":bf16");
      decls.push_back({half ? name.substr(0, name.size() - 5) : name,
                       half ? FileType::bf16 : FileType::f32,
                       {2, 1}});
    }
    SafetensorsWriter writer(folder_ / "model.safetensors", decls);
    size_t i = 0;
    for (const auto& [name, value] : tensors) {
      const float values[] = {value, 0.5f};
      const bf16 halves[] = {bf16(values[0]), bf16(values[1])};
      if (decls[i].type == FileType::bf16) {
        writer.write(decls[i].name, std::as_bytes(std::span(halves)));
      } else {
        writer.write(decls[i].name, std::as_bytes(std::span(values)));
      }
      ++i;
    }
    writer.finish();
    lines_.clear();
    return open_model_weights(folder_, config_,
                              [this](const std::string& line) { lines_.push_back(line); });
  }
  static float first(const CheckpointReader& reader, const char* name) {
    float value = 0;
    read_as_float(reader.at(name), 0, {&value, 1});
    return value;
  }

  fs::path folder_;
  models::ModelConfig config_;
  std::vector<std::string> lines_;
};

TEST_F(WeightFolder, NamesAreReadThroughAndSaid) {
  const CheckpointReader reader = open({{"module.model.layers.0.input_layernorm.weight", 3},
                                        {"module.model.embed_tokens.weight", 4}});
  EXPECT_EQ(reader.names(), (std::vector<std::string>{"model.embed_tokens.weight",
                                                      "model.layers.0.input_layernorm.weight"}));
  EXPECT_EQ(first(reader, "model.embed_tokens.weight"), 4);
  EXPECT_EQ(reader.at("model.embed_tokens.weight").name, "model.embed_tokens.weight");
  EXPECT_EQ(reader.file_of("model.embed_tokens.weight").path(), folder_ / "model.safetensors");
  EXPECT_EQ(reader.find("module.model.embed_tokens.weight"), nullptr);
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_NE(lines_[0].find("\"module.model.embed_tokens.weight\" is read as "
                           "\"model.embed_tokens.weight\", and 1 more"),
            std::string::npos)
      << lines_[0];
}

TEST_F(WeightFolder, AHeadThatDiffersIsUsed) {
  const CheckpointReader reader = open({{"model.embed_tokens.weight", 4}, {"lm_head.weight", 5}});
  EXPECT_FALSE(config_.tie_word_embeddings);
  EXPECT_EQ(first(reader, "lm_head.weight"), 5);
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_NE(lines_[0].find("lm_head.weight"), std::string::npos);
}

TEST_F(WeightFolder, AHeadThatIsTheEmbeddingIsNothingToSay) {
  for (const char* head : {"lm_head.weight", "lm_head.weight:bf16"}) {
    const CheckpointReader reader = open({{"model.embed_tokens.weight", 4}, {head, 4}});
    EXPECT_TRUE(config_.tie_word_embeddings);
    EXPECT_EQ(reader.names(), std::vector<std::string>{"model.embed_tokens.weight"});
    EXPECT_TRUE(lines_.empty());
  }
  open({{"model.embed_tokens.weight", 4}, {"lm_head.weight:bf16", 4.001f}});
  EXPECT_TRUE(config_.tie_word_embeddings);  // 4 in bf16
  open({{"model.embed_tokens.weight", 4.001f}, {"lm_head.weight:bf16", 4.001f}});
  EXPECT_FALSE(config_.tie_word_embeddings);
}

TEST_F(WeightFolder, AHeadWithoutAnEmbeddingIsIt) {
  const CheckpointReader reader = open({{"lm_head.weight", 5}});
  EXPECT_TRUE(config_.tie_word_embeddings);
  EXPECT_EQ(reader.names(), std::vector<std::string>{"model.embed_tokens.weight"});
  EXPECT_EQ(first(reader, "model.embed_tokens.weight"), 5);
  EXPECT_TRUE(lines_.empty());
}

TEST_F(WeightFolder, AnUntiedConfigKeepsItsHead) {
  config_.tie_word_embeddings = false;
  EXPECT_EQ(open({{"model.embed_tokens.weight", 4}, {"lm_head.weight", 4}}).names().size(), 2u);
}

TEST_F(WeightFolder, AnAdapterThatIsNotMergedIsNamed) {
  try {
    open({{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", 1},
          {"base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", 1}});
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("not merged"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace hone::io
