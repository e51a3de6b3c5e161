// Reading config.json: the families, both spellings, and every way of being wrong.
#include "models/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace hone::models {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 512},
          {"hidden_size", 64},
          {"intermediate_size", 172},
          {"num_hidden_layers", 5},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 4}};
}

json qwen2() {
  json config = llama();
  config["architectures"] = {"Qwen2ForCausalLM"};
  config["model_type"] = "qwen2";
  return config;
}

json qwen3() {
  json config = llama();
  config["architectures"] = {"Qwen3ForCausalLM"};
  config["model_type"] = "qwen3";
  return config;
}

json mistral() {
  json config = llama();
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  config["sliding_window"] = nullptr;
  return config;
}

json qwen3_moe() {
  json config = llama();
  config["architectures"] = {"Qwen3MoeForCausalLM"};
  config["model_type"] = "qwen3_moe";
  config["num_experts"] = 6;
  config["num_experts_per_tok"] = 2;
  config["moe_intermediate_size"] = 24;
  return config;
}

json mixtral() {
  json config = llama();
  config["architectures"] = {"MixtralForCausalLM"};
  config["model_type"] = "mixtral";
  config["num_local_experts"] = 4;
  return config;
}

json deepseek() {
  json config = llama();
  config["architectures"] = {"DeepseekV3ForCausalLM"};
  config["model_type"] = "deepseek_v3";
  config["num_key_value_heads"] = 8;
  config["first_k_dense_replace"] = 5;
  return config;
}

json with(json config, const std::string& name, json value) {
  config[name] = std::move(value);
  return config;
}

ModelConfig parse(const json& config) { return parse_model_config(config.dump(), "config.json"); }

// The error's text; empty if there was none.
std::string error_of(const std::string& text) {
  try {
    parse_model_config(text, "config.json");
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}
std::string error_of(const json& config) { return error_of(config.dump()); }

void expect_error(const json& config, const std::vector<std::string>& parts) {
  const std::string text = error_of(config);
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << "wanted " << part << " in: " << text;
  }
}

TEST(Config, LlamaDefaults) {
  const ModelConfig c = parse(llama());
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.max_position_embeddings, 2048);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.ropes.at(0).theta, 10000);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_FALSE(c.qkv_bias || c.attention_out_bias || c.mlp_bias || c.qk_norm);
  EXPECT_EQ(c.dtype, DType::f32);
  EXPECT_TRUE(c.eos_token_ids.empty());
  EXPECT_TRUE(c.unknown_fields.empty());
  json no_kv = llama();
  no_kv.erase("num_key_value_heads");
  EXPECT_EQ(parse(no_kv).num_key_value_heads, 8);
  EXPECT_EQ(parse(with(llama(), "num_key_value_heads", nullptr)).num_key_value_heads, 8);
}

TEST(Config, FamilyDifferences) {
  EXPECT_TRUE(parse(qwen2()).qkv_bias);
  EXPECT_FALSE(parse(qwen2()).attention_out_bias);
  EXPECT_EQ(parse(qwen2()).max_position_embeddings, 32768);
  const ModelConfig q3 = parse(qwen3());
  EXPECT_TRUE(q3.qk_norm);
  EXPECT_FALSE(q3.qkv_bias);
  EXPECT_EQ(q3.head_dim, 128);  // the class default, not hidden_size / heads
  EXPECT_EQ(parse(with(qwen3(), "head_dim", 32)).head_dim, 32);
  EXPECT_FALSE(parse(mistral()).qkv_bias);
  json no_kv = mistral();
  no_kv.erase("num_key_value_heads");
  EXPECT_EQ(parse(no_kv).num_key_value_heads, 8);
  const ModelConfig biased = parse(with(with(llama(), "attention_bias", true), "mlp_bias", true));
  EXPECT_TRUE(biased.qkv_bias && biased.attention_out_bias && biased.mlp_bias);
  json by_type = qwen2();
  by_type.erase("architectures");
  EXPECT_EQ(parse(by_type).architecture, "Qwen2ForCausalLM");
}

TEST(Config, Experts) {
  const ModelConfig plain = parse(qwen3_moe());
  EXPECT_EQ(plain.experts->experts, 6);
  EXPECT_EQ(plain.experts->per_token, 2);
  EXPECT_EQ(plain.experts->intermediate_size, 24);
  EXPECT_FALSE(plain.experts->normalise);  // the class default; released configs say true
  EXPECT_EQ(plain.experts->shared_intermediate_size, 0);
  EXPECT_TRUE(plain.qk_norm);
  EXPECT_EQ(plain.experts->sparse, std::vector<bool>(5, true));
  json config = with(qwen3_moe(), "decoder_sparse_step", 2);
  config["mlp_only_layers"] = {3};
  EXPECT_EQ(parse(config).experts->sparse, (std::vector<bool>{false, true, false, false, false}));
  // the key under which transformers 5 saves the number
  config = qwen3_moe();
  config.erase("num_experts");
  config["num_local_experts"] = 16;
  EXPECT_EQ(parse(config).experts->experts, 16);
  const ModelConfig mistral_kind = parse(mixtral());
  EXPECT_EQ(mistral_kind.experts->intermediate_size, 172);
  EXPECT_EQ(mistral_kind.experts->per_token, 2);
  EXPECT_TRUE(mistral_kind.experts->normalise);
  config = qwen3_moe();
  config["architectures"] = {"Qwen2MoeForCausalLM"};
  config["model_type"] = "qwen2_moe";
  EXPECT_EQ(parse(config).experts->shared_intermediate_size, 5632);
  EXPECT_TRUE(parse(config).qkv_bias);
  expect_error(with(qwen3_moe(), "num_experts_per_tok", 7), {"num_experts_per_tok", "7", "6"});
  expect_error(with(qwen3_moe(), "num_experts", 0), {"num_experts", "0"});
  expect_error(with(qwen3_moe(), "mlp_only_layers", {5}), {"mlp_only_layers", "5"});
  expect_error(with(mixtral(), "router_jitter_noise", 0.1), {"router_jitter_noise", "0.1"});
  expect_error(with(llama(), "num_experts", 8), {"num_experts", "8"});
}

TEST(Config, BothSpellings) {
  json old = llama();
  old["rope_theta"] = 500000.0;
  old["torch_dtype"] = "bfloat16";
  old["rope_scaling"] = {{"factor", 32.0},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", 8192},
                         {"rope_type", "llama3"}};
  json recent = llama();
  recent["dtype"] = "bfloat16";
  recent["rope_parameters"] = old["rope_scaling"];
  recent["rope_parameters"]["rope_theta"] = 500000.0;
  for (const json& config : {old, recent}) {
    const ModelConfig c = parse(config);
    EXPECT_EQ(c.ropes.at(0).theta, 500000);
    EXPECT_EQ(c.dtype, DType::bf16);
    EXPECT_EQ(c.ropes.at(0).scaling.type, RopeScaling::Type::llama3);
    EXPECT_EQ(c.ropes.at(0).scaling.factor, 32);
    EXPECT_EQ(c.ropes.at(0).scaling.original_max_position_embeddings, 8192);
    EXPECT_TRUE(c.unknown_fields.empty());
  }
  const ModelConfig linear =
      parse(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2.5}}));
  EXPECT_EQ(linear.ropes.at(0).scaling.type, RopeScaling::Type::linear);
  EXPECT_EQ(linear.ropes.at(0).scaling.factor, 2.5f);
  const ModelConfig plain = parse(
      with(qwen2(), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1000000.0}}));
  EXPECT_EQ(plain.ropes.at(0).scaling.type, RopeScaling::Type::none);
  EXPECT_EQ(plain.ropes.at(0).theta, 1e6);
  // One entry a kind of layer.
  const ModelConfig nested =
      parse(with(qwen2(), "rope_parameters",
                 {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 5000.0}}}}));
  EXPECT_EQ(nested.ropes.at(0).theta, 5000);
}

TEST(Config, EosAndBos) {
  EXPECT_EQ(parse(with(llama(), "eos_token_id", 2)).eos_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(parse(with(llama(), "eos_token_id", {2, 7})).eos_token_ids,
            (std::vector<int32_t>{2, 7}));
  EXPECT_TRUE(parse(with(llama(), "eos_token_id", nullptr)).eos_token_ids.empty());
  EXPECT_EQ(parse(with(llama(), "bos_token_id", 1)).bos_token_id, 1);
  EXPECT_FALSE(parse(with(llama(), "bos_token_id", nullptr)).bos_token_id.has_value());
  expect_error(with(llama(), "eos_token_id", -5), {"eos_token_id", "-5"});
  expect_error(with(llama(), "eos_token_id", "x"), {"eos_token_id", "\"x\""});
}

TEST(Config, UnsupportedIsNamed) {
  const std::vector<std::pair<std::string, json>> wrong = {
      {"hidden_act", "gelu"},           {"quantization_config", {{"quant_method", "gptq"}}},
      {"attn_logit_softcapping", 50.0}, {"final_logit_softcapping", 30.0},
      {"partial_rotary_factor", 0.5},   {"logit_scale", 0.0625},
      {"attention_dropout", 0.1},       {"num_local_experts", 8},
      {"torch_dtype", "float8_e4m3fn"}, {"dtype", "int8"},
      {"is_encoder_decoder", true},
  };
  for (const auto& [name, value] : wrong) {
    const std::string shown = value.is_object() ? "gptq" : value.dump();
    expect_error(with(llama(), name, value), {"[config]", "config.json", name, shown});
  }
  for (const char* type : {"dynamic", "longrope", "su", "mrope", "proportional", "NTK"}) {
    expect_error(with(llama(), "rope_scaling", {{"type", type}, {"factor", 4.0}}),
                 {"rope_scaling.type", type, "llama3"});
    expect_error(with(qwen2(), "rope_parameters", {{"rope_type", type}, {"factor", 4.0}}),
                 {"rope_parameters.rope_type", type});
  }
  expect_error(with(qwen3(), "mlp_bias", true), {"mlp_bias"});
  expect_error(with(mistral(), "attention_bias", true), {"attention_bias"});
  for (const char* name : {"GPT2LMHeadModel", "LlamaForSequenceClassification", "Qwen2Model"}) {
    expect_error(with(llama(), "architectures", {name}), {name, "Qwen3ForCausalLM"});
  }
  expect_error(with(llama(), "model_type", "mistral"),
               {"model_type", "mistral", "LlamaForCausalLM"});
  json nothing = llama();
  nothing.erase("architectures");
  nothing.erase("model_type");
  expect_error(nothing, {"architectures is missing", "supported are"});
}

TEST(Config, SlidingWindow) {
  EXPECT_EQ(error_of(mistral()), "");
  json absent = mistral();
  absent.erase("sliding_window");  // transformers then takes 4096
  expect_error(absent, {"sliding_window is 4096", "131072"});
  expect_error(with(mistral(), "sliding_window", 4096), {"sliding_window is 4096", "null"});
  json wide = with(mistral(), "sliding_window", 4096);
  wide["max_position_embeddings"] = 4096;
  EXPECT_EQ(error_of(wide), "");
  json qwen = with(qwen2(), "sliding_window", 100);
  EXPECT_EQ(error_of(qwen), "");  // use_sliding_window is off
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(error_of(qwen), "");  // max_window_layers 28 >= 5 layers: no layer has it
  qwen["max_window_layers"] = 3;
  expect_error(qwen, {"sliding_window is 100"});
  json types = with(qwen2(), "layer_types", json::array());
  for (int i = 0; i < 5; ++i) types["layer_types"].push_back("full_attention");
  EXPECT_EQ(error_of(types), "");
  types["layer_types"][3] = "sliding_attention";
  expect_error(types, {"layer_types", "entry 3", "sliding_attention"});
  types["layer_types"] = {"full_attention"};
  expect_error(types, {"layer_types", "1 entries", "5"});
}

TEST(Config, ValuesThatMakeNoSense) {
  for (const char* name : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                           "num_attention_heads"}) {
    for (const json& value :
         {json(0), json(-1), json("many"), json(1.5), json(true), json(18446744073709551615ull),
          json(json::array()), json(int64_t{1} << 40)}) {
      expect_error(with(llama(), name, value), {name, value.dump()});
    }
    json missing = llama();
    missing.erase(name);
    expect_error(missing, {name, "missing"});
  }
  expect_error(with(llama(), "num_key_value_heads", 3), {"num_key_value_heads", "3", "8"});
  expect_error(with(llama(), "hidden_size", 65), {"hidden_size", "65", "8"});
  expect_error(with(llama(), "head_dim", 7), {"7", "even"});
  expect_error(with(llama(), "rms_norm_eps", -1), {"rms_norm_eps", "-1"});
  expect_error(with(llama(), "rms_norm_eps", "small"), {"rms_norm_eps"});
  expect_error(with(llama(), "rope_theta", 0), {"rope_theta", "0"});
  expect_error(with(llama(), "tie_word_embeddings", 1), {"tie_word_embeddings", "true or false"});
  expect_error(with(llama(), "rope_scaling", "llama3"), {"rope_scaling", "object"});
  expect_error(with(llama(), "rope_scaling", {{"rope_type", "linear"}}), {"factor", "missing"});
  expect_error(with(llama(), "rope_scaling", {{"rope_type", "linear"}, {"factor", 0}}),
               {"rope_scaling.factor", "0"});
  json llama3 = {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}};
  llama3["high_freq_factor"] = 4;
  expect_error(with(llama(), "rope_scaling", llama3), {"high_freq_factor", "greater"});
  expect_error(with(llama(), "num_attention_heads", 6), {"num_key_value_heads"});
}

TEST(Config, TextThatIsNotAConfig) {
  EXPECT_NE(error_of(std::string("")).find("not valid JSON"), std::string::npos);
  EXPECT_NE(error_of(std::string("[1]")).find("object"), std::string::npos);
  EXPECT_NE(error_of(std::string("{\"a\": \"\xff\"}")).find("not valid JSON"), std::string::npos);
  EXPECT_NE(error_of(std::string(100000, '[')).find("nested"), std::string::npos);
  EXPECT_NE(error_of(std::string(R"({"hidden_size": 4, "hidden_size": 8})")).find("twice"),
            std::string::npos);
  EXPECT_NE(error_of(std::string(R"({"rope_theta": 1e999})")).find("not valid"), std::string::npos);
}

TEST(Config, UnknownFieldsAreListed) {
  json config = with(llama(), "brand_new_field", 3);
  config["use_cache"] = true;
  config["pretraining_tp"] = 2;
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}, {"sparkle", 1}};
  EXPECT_EQ(parse(config).unknown_fields,
            (std::vector<std::string>{"rope_scaling.sparkle", "brand_new_field"}));
}

TEST(Config, LatentAttention) {
  const ModelConfig c = parse(deepseek());
  ASSERT_TRUE(c.latent.has_value());
  EXPECT_EQ(c.latent->query_rank, 1536);
  EXPECT_EQ(c.latent->kv_rank, 512);
  EXPECT_EQ(c.latent->nope_dim, 128);
  EXPECT_EQ(c.ropes.at(0).dim, 64);
  EXPECT_TRUE(c.latent->interleaved);
  EXPECT_EQ(parse(with(deepseek(), "q_lora_rank", nullptr)).latent->query_rank, 0);
  expect_error(with(deepseek(), "first_k_dense_replace", 2), {"first_k_dense_replace", "2", "3"});
  expect_error(with(deepseek(), "num_key_value_heads", 4), {"num_key_value_heads", "4"});
  expect_error(with(deepseek(), "qk_rope_head_dim", 63), {"qk_rope_head_dim", "63"});
  expect_error(with(deepseek(), "qk_nope_head_dim", 513), {"qk_nope_head_dim", "513", "576"});
  expect_error(with(deepseek(), "v_head_dim", 577), {"v_head_dim", "577", "576"});
}

TEST(Config, Yarn) {
  const json yarn = {{"type", "yarn"},
                     {"factor", 40.0},
                     {"mscale", 1.0},
                     {"mscale_all_dim", 0.5},
                     {"original_max_position_embeddings", 4096}};
  const ModelConfig c = parse(with(deepseek(), "rope_scaling", yarn));
  const RopeScaling& s = c.ropes.at(0).scaling;
  EXPECT_EQ(s.type, RopeScaling::Type::yarn);
  EXPECT_EQ(s.beta_fast, 32);
  EXPECT_NEAR(s.attention_factor, 1.368887945 / 1.184443973, 1e-8);
  // Without both of mscale and mscale_all_dim: 0.1 ln(factor) + 1.
  EXPECT_NEAR(parse(with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 40.0}}))
                  .ropes.at(0)
                  .scaling.attention_factor,
              1.368887945, 1e-8);
  const std::string text = model_config_json(c);
  EXPECT_EQ(model_config_json(parse_model_config(text, "again")), text);
  json wrong = yarn;
  wrong["beta_slow"] = 64;
  expect_error(with(deepseek(), "rope_scaling", wrong), {"rope_scaling.beta_fast", "64"});
  wrong = yarn;
  wrong["rope_theta"] = 0.5;
  expect_error(with(deepseek(), "rope_scaling", wrong), {"rope_scaling.rope_theta"});
}

TEST(Config, RoundTrip) {
  for (json config : {llama(), mistral(), qwen2(), qwen3(), qwen3_moe(), mixtral(), deepseek()}) {
    config["eos_token_id"] = {3, 4};
    config["bos_token_id"] = 1;
    config["torch_dtype"] = "bfloat16";
    config["rms_norm_eps"] = 1e-5;
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.1},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 512}};
    const ModelConfig a = parse(config);
    const std::string text = model_config_json(a);
    const ModelConfig b = parse_model_config(text, "again");
    EXPECT_TRUE(b.unknown_fields.empty()) << b.unknown_fields.front();
    EXPECT_EQ(model_config_json(b), text);
    EXPECT_EQ(b.head_dim, a.head_dim);
    EXPECT_EQ(b.ropes.at(0).scaling.factor, 8.1f);
    EXPECT_EQ(b.eos_token_ids, a.eos_token_ids);
    EXPECT_EQ(b.qkv_bias, a.qkv_bias);
    ASSERT_EQ(b.experts.has_value(), a.experts.has_value());
    if (a.experts) {
      EXPECT_EQ(b.experts->intermediate_size, a.experts->intermediate_size);
      EXPECT_EQ(b.experts->sparse, a.experts->sparse);
    }
    EXPECT_EQ(b.dtype, DType::bf16);
    EXPECT_EQ(b.max_position_embeddings, a.max_position_embeddings);
  }
}

class ConfigFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("hone_config_" + std::to_string(getpid()) + "_" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  void write(const char* name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string load_error() {
    try {
      load_model_config(folder_);
    } catch (const UserError& e) {
      return e.what();
    }
    return "";
  }
  fs::path folder_;
};

TEST_F(ConfigFolder, GenerationConfigGivesEos) {
  write("config.json", with(llama(), "eos_token_id", 2).dump());
  EXPECT_EQ(load_model_config(folder_).eos_token_ids, std::vector<int32_t>{2});
  write("generation_config.json", R"({"eos_token_id": [5, 6], "temperature": 0.1})");
  EXPECT_EQ(load_model_config(folder_).eos_token_ids, (std::vector<int32_t>{5, 6}));
  write("generation_config.json", R"({"temperature": 0.1})");
  EXPECT_EQ(load_model_config(folder_).eos_token_ids, std::vector<int32_t>{2});
  write("generation_config.json", "{");
  EXPECT_NE(load_error().find("generation_config.json"), std::string::npos);
}

TEST_F(ConfigFolder, MissingFiles) {
  EXPECT_NE(load_error().find("no config.json"), std::string::npos);
  folder_ /= "absent";
  EXPECT_NE(load_error().find("not a folder"), std::string::npos);
}

TEST(ConfigAssets, RealFiles) {
  const fs::path assets = fs::path(HONE_SOURCE_DIR) / "../shared/assets";
  if (!fs::exists(assets / "tok-qwen/qwen2.config.json")) {
    GTEST_SKIP() << "needs ../shared/assets";
  }
  auto read = [&](const char* name) {
    std::ifstream in(assets / name);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    return parse_model_config(text, name);
  };
  const ModelConfig qwen = read("tok-qwen/qwen2.config.json");
  EXPECT_EQ(qwen.head_dim, 128);
  EXPECT_EQ(qwen.num_key_value_heads, 2);
  EXPECT_EQ(qwen.ropes.at(0).theta, 1e6);
  EXPECT_TRUE(qwen.tie_word_embeddings);
  EXPECT_EQ(qwen.dtype, DType::bf16);
  EXPECT_TRUE(qwen.unknown_fields.empty()) << qwen.unknown_fields.front();
  const ModelConfig r1 = read("tok-qwen/r1-distill-qwen-32b.config.json");
  EXPECT_EQ(r1.rms_norm_eps, 1e-5);
  EXPECT_EQ(r1.eos_token_ids, std::vector<int32_t>{151643});
  EXPECT_TRUE(r1.unknown_fields.empty());
  EXPECT_TRUE(read("tok-small/verl-digit-completion.config.json").unknown_fields.empty());
  const ModelConfig stories = load_model_config(assets / "model-stories260k");
  EXPECT_EQ(stories.vocab_size, 512);
  EXPECT_TRUE(stories.tie_word_embeddings);
  EXPECT_EQ(stories.dtype, DType::f32);
  EXPECT_TRUE(stories.unknown_fields.empty());
}

}  // namespace
}  // namespace hone::models
