// PEFT adapters: what the library wrote is read, its choice of modules is reproduced, and the rest
// is refused by name. tools/make_io_fixtures.py makes the fixtures.
#include "io/peft.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "core/error.h"
#include "io/peft_experts.h"
#include "io/peft_targets.h"
#include "io/safetensors.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kFixtures = fs::path(HONE_SOURCE_DIR) / "tests/fixtures/io";

json load_json(const fs::path& path) {
  std::ifstream in(path);
  return json::parse(in);
}

std::string error_of(const json& config) {
  try {
    parse_adapter_config(config.dump(), "adapter_config.json");
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

json plain() {
  return {{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 8}, {"target_modules", {"q_proj"}}};
}

json with(const char* name, json value) {
  json config = plain();
  config[name] = std::move(value);
  return config;
}

TEST(Peft, TargetsRanksAndScalesAsTheLibraryResolvesThem) {
  std::ifstream in(kFixtures / "peft_targets.json");
  const auto all = nlohmann::ordered_json::parse(in);  // the first pattern that matches counts
  const auto modules = all["linear_modules"].get<std::vector<std::string>>();
  ASSERT_EQ(modules.size(), 22u);  // 3 blocks of 7, and the head
  ASSERT_GE(all["cases"].size(), 10u);
  for (const auto& [name, item] : all["cases"].items()) {
    const AdapterConfig config = parse_adapter_config(item["config"].dump(), name);
    EXPECT_TRUE(config.unknown_fields.empty()) << config.unknown_fields.front();
    // What is written again must mean the same.
    const AdapterConfig again = parse_adapter_config(adapter_config_json(config), name);
    for (const AdapterRules& c : {AdapterRules(config), AdapterRules(again)}) {
      for (const std::string& module : modules) {
        const auto expected = item["modules"].find(module);
        ASSERT_EQ(c.targets(module), expected != item["modules"].end()) << name << " " << module;
        if (expected == item["modules"].end()) continue;
        EXPECT_EQ(c.rank_of(module), (*expected)["rank"].get<int64_t>()) << name << " " << module;
        EXPECT_DOUBLE_EQ(c.scale_of(module), (*expected)["scale"].get<double>()) << name << module;
      }
    }
  }
}

TEST(Peft, FirstPatternThatMatchesCounts) {
  const char* text = R"({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"],
    "rank_pattern": {"self_attn.q_proj": 2, "q_proj": 3}})";
  EXPECT_EQ(
      AdapterRules(parse_adapter_config(text, "t")).rank_of("model.layers.0.self_attn.q_proj"), 2);
  const char* turned = R"({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"],
    "rank_pattern": {"q_proj": 3, "self_attn.q_proj": 2}})";
  EXPECT_EQ(
      AdapterRules(parse_adapter_config(turned, "t")).rank_of("model.layers.0.self_attn.q_proj"),
      3);
}

TEST(Peft, UnsupportedIsNamed) {
  EXPECT_EQ(error_of(plain()), "");
  const std::vector<std::pair<const char*, json>> wrong = {
      {"peft_type", "IA3"},
      {"task_type", "SEQ_CLS"},
      {"bias", "all"},
      {"use_dora", true},
      {"lora_bias", true},
      {"fan_in_fan_out", true},
      {"modules_to_save", {"lm_head"}},
      {"megatron_config", {{"a", 1}}},
      {"layer_replication", {{0, 2}}},
      {"trainable_token_indices", {1, 2}},
      {"alora_invocation_tokens", {1}},
      {"use_qalora", true},
      {"init_lora_weights", "pissa"},
      {"init_lora_weights", "mica"},
      {"r", 0},
      {"r", -1},
      {"r", "8"},
      {"r", 1 << 20},
      {"lora_alpha", "x"},
      {"lora_dropout", 1.0},
      {"lora_dropout", -0.5},
      {"use_rslora", 1},
      {"target_modules", nullptr},
      {"target_modules", json::array()},
      {"target_modules", {1}},
      {"target_modules", {""}},
      {"target_modules", "(unclosed"},
      {"rank_pattern", {{"q_proj", 0}}},
      {"rank_pattern", {{"(", 4}}},
      {"alpha_pattern", {{"q_proj", "x"}}},
      {"layers_to_transform", {-1}},
  };
  for (const auto& [name, value] : wrong) {
    const std::string error = error_of(with(name, value));
    EXPECT_NE(error.find(name), std::string::npos) << name << "=" << value << ": " << error;
  }
  json missing = plain();
  missing.erase("peft_type");
  EXPECT_NE(error_of(missing).find("peft_type"), std::string::npos);
  EXPECT_EQ(parse_adapter_config(with("sparkle", 1).dump(), "t").unknown_fields,
            std::vector<std::string>{"sparkle"});
}

// What would need going back, is too large, or is read differently by Python is named.
TEST(Peft, ExpressionsThatAreRefused) {
  EXPECT_EQ(error_of(with("target_modules", std::string(2000, 'a'))), "");
  const std::vector<std::pair<std::string, const char*>> wrong = {
      {std::string(2001, 'a'), "2001 bytes"},
      {"(a{200}){200}", "too large"},
      {std::string(101, '(') + "a" + std::string(101, ')'), "nest"},
      {".*(?=q_proj).*", "look-around"},
      {"(?<!x)q_proj", "look-around"},
      {"(?!x)q_proj|(?!x)v_proj", "look-around"},
      {"^(?!x)q_proj|v_proj", "look-ahead of one alternative"},
      {"(?!x", "look-around"},
      {"(q)_\\1", "backreferences"},
      {"(?P<n>q)(?P=n)", "flag"},
      {"q*+_proj", "repetition of a repetition"},
      {"q_proj++", "repetition of a repetition"},
      {"[[:alpha:]]_proj", "set within a set"},
      {"[a-z&&[q]]_proj", "set"},
      {"(?x) q_proj", "flag"},
      {"\\<q_proj", "word"},
      {"(unclosed", "unclosed"},
      {"*_proj", "repetition"},
      {"q\xff", "UTF-8"},
  };
  for (const auto& [expression, reason] : wrong) {
    AdapterConfig c;
    c.target_expression = expression;
    try {
      AdapterRules{c};
      ADD_FAILURE() << expression << " is accepted";
    } catch (const UserError& e) {
      const std::string text = e.what();
      EXPECT_NE(text.find(reason), std::string::npos) << text;
      EXPECT_NE(text.find("target_modules"), std::string::npos) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    }
  }
  // Look-aheads at the very beginning need no going back.
  AdapterConfig ahead;
  ahead.target_expression = "^(?!.*[])]|visual|.*\\)x)(?=model\\.)(?!.*k_proj$).*_proj";
  const AdapterRules rules(ahead);
  EXPECT_TRUE(rules.targets("model.layers.0.self_attn.q_proj"));
  for (const char* other :
       {"visual.q_proj", "q_proj", "model.0.k_proj", "model.).q_proj", "model.q"})
    EXPECT_FALSE(rules.targets(other)) << other;
  for (const char* same : {"(?i)Q_PROJ", "(?P<name>q|v)_proj", "[qv]_proj", "\\w+_proj",
                           "(?:q|)_proj", "^q_proj$", "q{1,2}?_proj", "\\bq_proj\\b"}) {
    AdapterConfig c;
    c.target_expression = same;
    EXPECT_TRUE(AdapterRules(c).targets("q_proj")) << same;
    EXPECT_FALSE(AdapterRules(c).targets("q_proj.x")) << same;
  }
}

TEST(Peft, WhatActsOnlyWithOthersIsRefused) {
  json config = plain();
  config["layers_pattern"] = "layers";
  EXPECT_NE(error_of(config).find("layers_pattern"), std::string::npos);
  config["layers_to_transform"] = 1;
  EXPECT_EQ(error_of(config), "");
  config["target_modules"] = "all-linear";
  EXPECT_NE(error_of(config).find("layers_to_transform"), std::string::npos);
  const AdapterRules upper(parse_adapter_config(with("target_modules", "All-Linear").dump(), "t"));
  EXPECT_TRUE(upper.targets("model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(upper.targets("lm_head"));
}

TEST(Peft, LayersPatternsAreExpressions) {
  json config = plain();
  config["layers_to_transform"] = {1};
  config["layers_pattern"] = {"blocks", "model\\.lay.rs"};
  const AdapterRules rules(parse_adapter_config(config.dump(), "t"));
  EXPECT_TRUE(rules.targets("model.layers.1.self_attn.q_proj"));
  EXPECT_TRUE(rules.targets("x.blocks.1.q_proj"));
  EXPECT_FALSE(rules.targets("x.blocks.2.1.q_proj"));
  EXPECT_FALSE(rules.targets("model.layers.2.self_attn.q_proj"));
  EXPECT_FALSE(rules.targets("model.stages.1.self_attn.q_proj"));
}

std::vector<std::string> linear_modules(int blocks) {
  std::vector<std::string> modules;
  for (int i = 0; i < blocks; ++i)
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
      modules.push_back(fmt::format("model.layers.{}.{}", i, name));
  return modules;
}

std::vector<std::string> targets_of(const AdapterConfig& config,
                                    const std::vector<std::string>& modules) {
  const AdapterRules rules(config);
  std::vector<std::string> tuned;
  for (const std::string& module : modules)
    if (rules.targets(module)) tuned.push_back(module);
  return tuned;
}

// Whatever is asked for, what is written down is a list that selects the same modules again.
TEST(Peft, ResolvedConfigsSelectWhatIsTuned) {
  std::vector<std::string> modules = linear_modules(12);
  modules.emplace_back("lm_head");
  std::vector<AdapterConfig> asked;
  for (const char* expression : {"all-linear", ".*q_proj", ".*(mlp|self_attn)\\.(up|v)_proj",
                                 ".*layers\\.[13]\\..*", ".*\\.1\\.mlp\\.up_proj|lm_head",
                                 ".*layers\\.1\\.mlp.*|.*layers\\.2\\.self_attn\\.q_proj"}) {
    asked.emplace_back().target_expression = expression;
  }
  for (const std::vector<std::string>& names :
       std::vector<std::vector<std::string>>{{"q_proj", "v_proj"},
                                             {"mlp.up_proj"},
                                             {"1.mlp.up_proj", "q_proj"},
                                             {"model.layers.3.mlp.up_proj"},
                                             {"lm_head", "q_proj"}}) {
    asked.emplace_back().target_modules = names;
  }
  for (size_t i = 0, n = asked.size(); i < n; ++i) {
    AdapterConfig some = asked[i];
    some.layers_to_transform = {1, 3, 10};
    asked.push_back(some);
    some.exclude_modules = {"10.self_attn.q_proj", "down_proj"};
    asked.push_back(some);
  }
  int with_layers = 0, with_paths = 0;
  for (const AdapterConfig& config : asked) {
    const std::vector<std::string> tuned = targets_of(config, modules);
    if (tuned.empty()) continue;
    const AdapterConfig resolved = resolved_config(config, modules, tuned);
    const std::string text = adapter_config_json(resolved);
    EXPECT_TRUE(json::parse(text)["target_modules"].is_array()) << text;
    EXPECT_TRUE(json::parse(text)["layers_pattern"].is_null()) << text;
    EXPECT_EQ(targets_of(parse_adapter_config(text, "t"), modules), tuned) << text;
    with_layers += resolved.layers_to_transform.empty() ? 0 : 1;
    with_paths += resolved.target_modules[0].starts_with("model.") ? 1 : 0;
  }
  EXPECT_GT(with_layers, 3);
  EXPECT_GT(with_paths, 3);
}

TEST(Peft, ResolvedConfigsAreShort) {
  const std::vector<std::string> modules = linear_modules(12);
  AdapterConfig config;
  config.target_expression = "all-linear";
  AdapterConfig resolved = resolved_config(config, modules, targets_of(config, modules));
  EXPECT_EQ(resolved.target_modules,
            (std::vector<std::string>{"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj",
                                      "up_proj", "v_proj"}));
  EXPECT_TRUE(resolved.layers_to_transform.empty());
  config.layers_to_transform = {0};
  resolved = resolved_config(config, modules, targets_of(config, modules));
  EXPECT_EQ(resolved.target_modules.size(), 7u);
  EXPECT_EQ(resolved.layers_to_transform, std::vector<int64_t>{0});
  config.target_expression = ".*q_proj";
  resolved = resolved_config(config, modules, targets_of(config, modules));
  EXPECT_EQ(resolved.target_modules, std::vector<std::string>{"q_proj"});
}

TEST(Peft, Names) {
  const std::string module = "model.layers.0.self_attn.q_proj";
  EXPECT_EQ(adapter_tensor_name(module, LoraSide::a),
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
  for (const LoraSide side : {LoraSide::a, LoraSide::b}) {
    const auto name = parse_adapter_tensor_name(adapter_tensor_name(module, side));
    ASSERT_TRUE(name.has_value());
    EXPECT_EQ(name->module, module);
    EXPECT_EQ(name->side, side);
  }
  for (const char* bad :
       {"", "base_model.model.", "base_model.model..lora_A.weight2",
        "model.layers.0.q.lora_A.weight", "base_model.model.lora_A.weight",
        "base_model.model.x.lora_magnitude_vector", "base_model.model.x.weight"}) {
    EXPECT_FALSE(parse_adapter_tensor_name(bad).has_value()) << bad;
  }
}

void expect_as_recorded(const Adapter& adapter, const json& expected) {
  EXPECT_EQ(adapter.layers.size() * 2, expected.size());
  for (const AdapterLayer& layer : adapter.layers) {
    for (const LoraSide side : {LoraSide::a, LoraSide::b}) {
      const json& item = expected.at(adapter_tensor_name(layer.module, side));
      const std::vector<float>& values = side == LoraSide::a ? layer.a : layer.b;
      const std::vector<int64_t> shape = side == LoraSide::a
                                             ? std::vector<int64_t>{layer.rank, layer.in}
                                             : std::vector<int64_t>{layer.out, layer.rank};
      EXPECT_EQ(shape, item["shape"].get<std::vector<int64_t>>());
      EXPECT_EQ(values.front(), item["first"].get<float>());
      EXPECT_EQ(values.back(), item["last"].get<float>());
      double sum = 0;
      for (const float v : values) sum += v;
      // Up to 120 values below 4 added in fp64 in another order: far below 1e-12.
      EXPECT_NEAR(sum, item["sum"].get<double>(), 1e-12);
    }
  }
}

class PeftFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              fmt::format("hone_peft_{}_{}", getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  void copy_fixture(const char* name) {
    fs::remove_all(folder_);
    fs::copy(kFixtures / name, folder_);
  }
  std::string load_error() {
    try {
      load_adapter(folder_);
    } catch (const UserError& e) {
      return e.what();
    }
    return "";
  }
  void write_tensors(const std::vector<std::pair<TensorDecl, float>>& tensors) {
    std::vector<TensorDecl> decls;
    for (const auto& [decl, value] : tensors) decls.push_back(decl);
    SafetensorsWriter writer(folder_ / "adapter_model.safetensors", decls);
    for (const auto& [decl, value] : tensors) {
      const std::vector<float> values(decl.bytes() / 4, value);
      writer.write(decl.name, std::as_bytes(std::span(values)));
    }
    writer.finish();
  }
  fs::path folder_;
};

TEST_F(PeftFiles, WhatTheLibraryWroteIsRead) {
  for (const char* name : {"peft_plain", "peft_bf16"}) {
    const Adapter adapter = load_adapter(kFixtures / name);
    EXPECT_TRUE(adapter.config.unknown_fields.empty());
    expect_as_recorded(adapter, load_json(kFixtures / name / "expected.json"));
  }
  const Adapter plain = load_adapter(kFixtures / "peft_plain");
  EXPECT_EQ(plain.config.dropout, 0.1);
  EXPECT_EQ(plain.layers.front().module, "model.layers.0.self_attn.q_proj");
  const Adapter bf16 = load_adapter(kFixtures / "peft_bf16");
  EXPECT_EQ(AdapterRules(bf16.config).rank_of("model.layers.2.mlp.down_proj"), 3);
  EXPECT_DOUBLE_EQ(AdapterRules(bf16.config).scale_of("model.layers.2.mlp.up_proj"),
                   4 / std::sqrt(2.0));
}

// Adapters of experts as PEFT has written them: read, and written with the same names and bits.
TEST_F(PeftFiles, ExpertsAreStoredAsPeftDoes) {
  const fs::path from = fs::path(HONE_SOURCE_DIR) / "tests/fixtures/models/qwen3_moe/lora";
  const Adapter adapter = load_adapter(from);
  std::vector<AdapterLayerView> views;
  const AdapterLayer* gate_up = nullptr;
  for (const AdapterLayer& l : adapter.layers) {
    views.push_back({l.module, l.rank, l.in, l.out, l.copies, l.a.data(), l.b.data()});
    if (l.module == "model.layers.0.mlp.experts.gate_up_proj") gate_up = &l;
  }
  ASSERT_NE(gate_up, nullptr);
  EXPECT_EQ(gate_up->copies, 6);
  EXPECT_EQ(gate_up->rank, 3);
  EXPECT_EQ(gate_up->in, 24);
  EXPECT_EQ(gate_up->out, 16);
  const SafetensorsFile theirs = SafetensorsFile::open(from / "adapter_model.safetensors");
  // expert 4, output 7, rank 2: column 2 * 6 + 4 of row 7
  std::vector<float> b(16 * 18);
  read_as_float(
      *theirs.find("base_model.model.model.layers.0.mlp.experts.base_layer.lora_B.weight"), 0, b);
  EXPECT_EQ(gate_up->b[(4 * 16 + 7) * 3 + 2], b[7 * 18 + 2 * 6 + 4]);
  save_adapter(folder_, views);
  const SafetensorsFile ours = SafetensorsFile::open(folder_ / "adapter_model.safetensors");
  ASSERT_EQ(ours.tensors().size(), theirs.tensors().size());
  for (const TensorEntry& t : theirs.tensors()) {
    const TensorEntry* same = ours.find(t.name);
    ASSERT_NE(same, nullptr) << t.name;
    EXPECT_EQ(same->shape, t.shape) << t.name;
    ASSERT_EQ(same->bytes, t.bytes);
    EXPECT_EQ(std::memcmp(same->data, t.data, t.bytes), 0) << t.name;
  }
  // the config that says so selects the same again
  const AdapterConfig config = parse_adapter_config(adapter_config_json(adapter.config), "again");
  EXPECT_EQ(config.target_parameters, adapter.config.target_parameters);
  const AdapterRules rules(config);
  EXPECT_TRUE(rules.targets("model.layers.2.mlp.experts.down_proj"));
  EXPECT_FALSE(rules.targets("model.layers.1.mlp.down_proj"));  // of a dense block
}

TEST(PeftExperts, NamesOfOneParameterAlone) {
  AdapterConfig config;
  const std::string stored = "base_model.model.model.layers.0.mlp.experts.lora_A.weight";
  config.target_parameters = {"mlp.experts.gate_up_proj"};
  EXPECT_EQ(with_expert_parameter(stored, config),
            "base_model.model.model.layers.0.mlp.experts.gate_up_proj.lora_A.weight");
  config.target_parameters = {"mlp.experts.down_proj"};
  EXPECT_EQ(with_expert_parameter(stored, config),
            "base_model.model.model.layers.0.mlp.experts.down_proj.lora_A.weight");
  const std::string gate_up = "model.layers.0.mlp.experts.gate_up_proj";
  EXPECT_EQ(without_expert_parameter(gate_up, {{.module = gate_up}}), "model.layers.0.mlp.experts");
  EXPECT_EQ(without_expert_parameter("model.layers.0.mlp.down_proj", {}),
            "model.layers.0.mlp.down_proj");
}

// What hone writes after it has resolved all-linear: parameters for experts, no router.
TEST(PeftExperts, ResolvedTargets) {
  std::vector<std::string> modules, tuned;
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* part : {"self_attn.q_proj", "mlp.gate", "mlp.experts.gate_up_proj",
                             "mlp.experts.down_proj", "mlp.shared_expert.down_proj"}) {
      modules.push_back(std::string(layer) + part);
      if (std::string(part) != "mlp.gate") tuned.push_back(modules.back());
    }
  }
  AdapterConfig config;
  config.target_expression = "all-linear";
  const AdapterConfig all = resolved_config(config, modules, tuned, /*experts=*/true);
  EXPECT_EQ(all.target_modules, std::vector<std::string>{"q_proj"});
  // down_proj as a module's name would be experts to PEFT
  EXPECT_EQ(all.target_parameters,
            (std::vector<std::string>{"mlp.experts.down_proj", "mlp.experts.gate_up_proj",
                                      "shared_expert.down_proj.weight"}));
  EXPECT_TRUE(all.target_expression.empty());
  const AdapterConfig one = resolved_config(config, modules, {modules[2]}, /*experts=*/true);
  EXPECT_EQ(one.target_parameters, std::vector<std::string>{modules[2]});
  EXPECT_TRUE(one.target_modules.empty());
}

TEST_F(PeftFiles, SavedReadsBackBitForBit) {
  const Adapter adapter = load_adapter(kFixtures / "peft_bf16");
  std::vector<AdapterLayerView> views;
  for (const AdapterLayer& l : adapter.layers) {
    views.push_back({l.module, l.rank, l.in, l.out, l.copies, l.a.data(), l.b.data()});
  }
  save_adapter(folder_, views);
  write_file_atomically(folder_ / "adapter_config.json", adapter_config_json(adapter.config));
  const Adapter again = load_adapter(folder_);
  ASSERT_EQ(again.layers.size(), adapter.layers.size());
  for (size_t i = 0; i < again.layers.size(); ++i) {
    EXPECT_EQ(again.layers[i].module, adapter.layers[i].module);
    EXPECT_EQ(again.layers[i].a, adapter.layers[i].a);
    EXPECT_EQ(again.layers[i].b, adapter.layers[i].b);
  }
  EXPECT_EQ(SafetensorsFile::open(folder_ / "adapter_model.safetensors").tensors()[0].type,
            FileType::f32);
  EXPECT_EQ(adapter_config_json(again.config), adapter_config_json(adapter.config));
}

// An adapter made on a wrapped base is one of the base, with its ranks and scales.
TEST_F(PeftFiles, ModulesOfAWrappedModelAreReadThrough) {
  fs::create_directories(folder_);
  const auto tensors = [](const std::string& module, int64_t rank) {
    return std::vector<std::pair<TensorDecl, float>>{
        {{adapter_tensor_name(module, LoraSide::a), FileType::f32, {rank, 3}}, 1},
        {{adapter_tensor_name(module, LoraSide::b), FileType::f32, {5, rank}}, 2}};
  };
  const auto write_pairs = [&](const std::string& body) {
    auto all = tensors(body + "layers.0.self_attn.q_proj", 4);
    for (const auto& t : tensors(body + "layers.1.mlp.up_proj", 2)) all.push_back(t);
    write_tensors(all);
  };
  struct Case {
    const char *body, *target, *rank_pattern;
  };
  for (const Case& c :
       {Case{"model.language_model.", "^model\\.language_model\\.layers.*", "up_proj"},
        Case{"language_model.model.", ".*_proj", "language_model.model.layers.1.*"},
        Case{"", ".*_proj", "1.mlp.up_proj"}}) {
    SCOPED_TRACE(c.body);
    write_pairs(c.body);
    json config = with("target_modules", c.target);
    config["rank_pattern"] = {{c.rank_pattern, 2}};
    config["alpha_pattern"] = {{"q_proj", 3}};
    write_file_atomically(folder_ / "adapter_config.json", config.dump());
    const Adapter adapter = load_adapter(folder_);
    ASSERT_EQ(adapter.notes.size(), 1u);
    EXPECT_NE(adapter.notes[0].find("wrapped model"), std::string::npos);
    // Also as it would be saved again.
    for (const AdapterConfig& read :
         {adapter.config, parse_adapter_config(adapter_config_json(adapter.config), "t")}) {
      const AdapterRules rules(read);
      const std::vector<std::string> modules = {"model.layers.0.self_attn.q_proj",
                                                "model.layers.1.mlp.up_proj"};
      EXPECT_EQ(targets_of(read, linear_modules(3)), modules);
      EXPECT_EQ(adapter.layers[0].module, modules[0]);
      EXPECT_EQ(adapter.layers[1].module, modules[1]);
      EXPECT_EQ(rules.rank_of(modules[0]), 4);
      EXPECT_EQ(rules.rank_of(modules[1]), 2);
      EXPECT_EQ(rules.alpha_of(modules[0]), 3);
      EXPECT_EQ(rules.alpha_of(modules[1]), 8);
    }
  }
  write_pairs("_orig_mod.model.");
  write_file_atomically(folder_ / "adapter_config.json",
                        R"({"peft_type": "LORA", "r": 4, "rank_pattern": {"up_proj": 2},
                            "target_modules": ["q_proj", "up_proj"], "sparkle": 1})");
  const Adapter adapter = load_adapter(folder_);
  EXPECT_EQ(adapter.layers[0].module, "model.layers.0.self_attn.q_proj");
  ASSERT_EQ(adapter.notes.size(), 1u);
  EXPECT_NE(adapter.notes[0].find("sparkle"), std::string::npos);
}

TEST_F(PeftFiles, BadFolders) {
  fs::create_directories(folder_);
  EXPECT_NE(load_error().find("no adapter_config.json"), std::string::npos);
  copy_fixture("peft_plain");
  fs::remove(folder_ / "adapter_model.safetensors");
  EXPECT_NE(load_error().find("no adapter_model.safetensors"), std::string::npos);
  std::ofstream(folder_ / "adapter_model.bin") << "x";
  EXPECT_NE(load_error().find("convert it to safetensors"), std::string::npos);
  const std::string q = "model.layers.0.self_attn.q_proj";
  const std::string a = adapter_tensor_name(q, LoraSide::a),
                    b = adapter_tensor_name(q, LoraSide::b);
  const TensorDecl good_a{a, FileType::f32, {4, 16}}, good_b{b, FileType::f32, {24, 4}};
  write_tensors({{good_a, 1}, {good_b, 1}});
  EXPECT_EQ(load_error(), "");
  write_tensors({{good_a, 1}});
  EXPECT_NE(load_error().find("lora_A but no lora_B"), std::string::npos);
  write_tensors({{good_a, 1}, {{b, FileType::f32, {24, 5}}, 1}});
  EXPECT_NE(load_error().find("rank 4"), std::string::npos);
  write_tensors({{{a, FileType::f32, {8, 16}}, 1}, {{b, FileType::f32, {24, 8}}, 1}});
  EXPECT_NE(load_error().find("rank 4"), std::string::npos);
  write_tensors({{{a, FileType::f32, {4, 16, 1}}, 1}, {good_b, 1}});
  EXPECT_NE(load_error().find("rank 4"), std::string::npos);
  write_tensors({{{a, FileType::f32, {4, 0}}, 1}, {good_b, 1}});
  EXPECT_NE(load_error().find("rank 4"), std::string::npos);
  write_tensors({{good_a, 1}, {good_b, std::numeric_limits<float>::quiet_NaN()}});
  EXPECT_NE(load_error().find("nan"), std::string::npos);
  write_tensors(
      {{good_a, 1}, {good_b, 1}, {{"base_model.model.lm_head.weight", FileType::f32, {1}}, 1}});
  EXPECT_NE(load_error().find("lm_head"), std::string::npos);
  write_tensors({});
  EXPECT_NE(load_error().find("no tensors"), std::string::npos);
  write_tensors({{{a, FileType::i32, {4, 16}}, 1}, {good_b, 1}});
  EXPECT_NE(load_error().find("I32"), std::string::npos);
}

// A file of every element type, written by the format's own library.
TEST(SafetensorsLibrary, EveryType) {
  const SafetensorsFile file = SafetensorsFile::open(kFixtures / "types.safetensors");
  EXPECT_EQ(file.metadata().at("note"), "a \"quoted\" note");
  EXPECT_EQ(file.tensors().size(), 14u);
  const std::vector<float> expected = {0.5f, -1, 2, 0, 3, -4};
  for (const char* name : {"f64", "f32", "f16", "bf16"}) {
    std::vector<float> values(6);
    read_as_float(file.at(name), 0, values);
    EXPECT_EQ(values, expected) << name;
    EXPECT_EQ(file.at(name).shape, (std::vector<int64_t>{2, 3}));
  }
  EXPECT_EQ(file.at("scalar").shape.size(), 0u);
  EXPECT_EQ(file.at("empty").bytes, 0u);
  EXPECT_EQ(file.at("bool").type, FileType::boolean);
  EXPECT_EQ(file.at("f8_e4m3").type, FileType::f8_e4m3);
  std::vector<float> values(6);
  EXPECT_THROW(read_as_float(file.at("i64"), 0, values), UserError);
}

}  // namespace
}  // namespace hone::io
