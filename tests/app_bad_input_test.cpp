// Bad input through the binary: the exit code, one sentence that says what is wrong, and nothing
// that existed changed.
#include <cstring>

#include "robust_util.h"

namespace hone::robust {
namespace {

// A model folder, a data file and the flags, to be spoilt by a case.
struct Place {
  std::string model, data, out;
  std::vector<std::string> extra;
  std::vector<std::string> command;  // instead of sft

  std::string weights() const { return model + "/model.safetensors"; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(model + "/" + name, std::ios::binary) << text;
  }
  void write_data(const std::string& text) const { std::ofstream(data, std::ios::binary) << text; }
  void edit_json(const std::string& name, const std::function<void(Json&)>& edit) const {
    Json json = Json::parse(read_file(model + "/" + name));
    edit(json);
    write(name, json.dump());
  }
  void chat_template(const std::string& source) const {
    edit_json("tokenizer_config.json", [&](Json& j) { j["chat_template"] = source; });
  }
  // Another header before the same bytes of tensors.
  void edit_header(const std::function<void(Json&)>& edit, const std::string& behind = "") const {
    const std::string file = read_file(weights());
    uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    Json header = Json::parse(file.substr(8, length));
    edit(header);
    const std::string text = header.dump();
    length = text.size();
    write("model.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + text +
                                   file.substr(8 + header_bytes(file)) + behind);
  }
  static size_t header_bytes(const std::string& file) {
    uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    return length;
  }
  // The data bytes of one tensor.
  void edit_tensor(const std::string& name, const std::function<void(char*)>& edit) const {
    std::string file = read_file(weights());
    const size_t header = header_bytes(file);
    const Json json = Json::parse(file.substr(8, header));
    edit(file.data() + 8 + header + json.at(name).at("data_offsets").at(0).get<size_t>());
    write("model.safetensors", file);
  }
  void shards(const Json& weight_map) const {
    fs::rename(weights(), model + "/model-00001-of-00001.safetensors");
    write("model.safetensors.index.json", Json{{"weight_map", weight_map}}.dump());
  }
  Json weight_map() const {
    const std::string file = read_file(weights());
    const Json json = Json::parse(file.substr(8, header_bytes(file)));
    Json map = Json::object();
    for (const auto& [name, value] : json.items()) {
      if (name != "__metadata__") map[name] = "model-00001-of-00001.safetensors";
    }
    return map;
  }
};

struct Case {
  const char* name;
  std::function<void(Place&)> spoil;
  std::vector<std::string> said;  // all of it in the one line
  int code = 2;
};

const char* kNorm = "model.norm.weight";
const char* kQ = "model.layers.0.self_attn.q_proj.weight";

std::vector<Case> weight_cases() {
  return {
      {"truncated",
       [](Place& p) { fs::resize_file(p.weights(), fs::file_size(p.weights()) / 2); },
       {"model.safetensors"}},
      {"truncated in the header",
       [](Place& p) { fs::resize_file(p.weights(), 40); },
       {"model.safetensors", "header"}},
      {"empty file", [](Place& p) { fs::resize_file(p.weights(), 0); }, {"model.safetensors"}},
      {"header longer than allowed",
       [](Place& p) {
         std::string file = read_file(p.weights());
         std::memset(file.data(), 0x7f, 7);
         p.write("model.safetensors", file);
       },
       {"model.safetensors", "header"}},
      {"header is not JSON",
       [](Place& p) {
         std::string file = read_file(p.weights());
         file[8] = '[';
         p.write("model.safetensors", file);
       },
       {"model.safetensors"}},
      {"overlap",
       [](Place& p) { p.edit_header([](Json& j) {
                        j[kQ]["data_offsets"] = {0, 1024};
                      }); },
       {"model.safetensors"}},
      {"hole",
       [](Place& p) { p.edit_header([](Json& j) { j.erase(kNorm); }); },
       {"model.safetensors"}},
      {"bytes behind the last tensor",
       [](Place& p) { p.edit_header([](Json&) {}, std::string(64, 'x')); },
       {"model.safetensors"}},
      {"shape that overflows",
       [](Place& p) { p.edit_header([](Json& j) {
                        j[kNorm]["shape"] = {int64_t{1} << 62, 16};
                      }); },
       {kNorm}},
      {"negative dimension",
       [](Place& p) { p.edit_header([](Json& j) { j[kNorm]["shape"] = {-16}; }); },
       {kNorm}},
      {"size that does not match the shape",
       [](Place& p) { p.edit_header([](Json& j) { j[kNorm]["shape"] = {15}; }); },
       {kNorm}},
      {"offsets outside the file",
       [](Place& p) {
         p.edit_header([](Json& j) {
           j[kNorm]["data_offsets"] = {int64_t{1} << 40, (int64_t{1} << 40) + 64};
         });
       },
       {kNorm}},
      {"unknown type",
       [](Place& p) { p.edit_header([](Json& j) { j[kNorm]["dtype"] = "F33"; }); },
       {kNorm, "F33"}},
      {"no weights", [](Place& p) { fs::remove(p.weights()); }, {"model.safetensors"}},
      {"tensor under another name",
       [](Place& p) {
         p.edit_header([](Json& j) {
           j["model.norm.wait"] = j[kNorm];
           j.erase(kNorm);
         });
       },
       {kNorm}},
      {"no head",
       [](Place& p) {
         p.edit_header([](Json& j) {
           j["lm_hat.weight"] = j["lm_head.weight"];
           j.erase("lm_head.weight");
         });
       },
       {"lm_head.weight", "tie_word_embeddings"}},
      {"adapter that is not merged",
       [](Place& p) {
         p.edit_header([](Json& j) {
           j["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = j[kQ];
           j.erase(kQ);
         });
       },
       {"lora_A", "not merged"}},
      {"shard missing",
       [](Place& p) {
         Json map = p.weight_map();
         map[kNorm] = "model-00002-of-00002.safetensors";
         p.shards(map);
       },
       {"model-00002-of-00002.safetensors"}},
      {"tensor missing from its shard",
       [](Place& p) {
         Json map = p.weight_map();
         map["model.extra.weight"] = "model-00001-of-00001.safetensors";
         p.shards(map);
       },
       {"model.extra.weight"}},
      {"index that climbs out",
       [](Place& p) {
         Json map = p.weight_map();
         map[kNorm] = "../../etc/passwd";
         p.shards(map);
       },
       {"../../etc/passwd"}},
      {"index that is a list", [](Place& p) { p.shards(Json::array({"a"})); }, {"index.json"}},
      {"NaN",
       [](Place& p) { p.edit_tensor(kQ, [](char* at) { std::memset(at + 8, 0xff, 4); }); },
       {kQ, "nan"}},
      {"infinity",
       [](Place& p) { p.edit_tensor(kNorm, [](char* at) { std::memcpy(at, "\0\0\x80\x7f", 4); }); },
       {kNorm, "inf"}},
  };
}

std::vector<Case> config_cases() {
  const auto config = [](const char* key, Json value) {
    return [=](Place& p) { p.edit_json("config.json", [&](Json& j) { j[key] = value; }); };
  };
  return {
      {"no folder", [](Place& p) { p.model += "_none"; }, {"_none"}},
      {"no config", [](Place& p) { fs::remove(p.model + "/config.json"); }, {"config.json"}},
      {"not JSON", [](Place& p) { p.write("config.json", "{\"a\": }"); }, {"config.json"}},
      {"deep JSON",
       [](Place& p) { p.write("config.json", std::string(200000, '[')); },
       {"config.json"}},
      {"another width", config("intermediate_size", 64), {"mlp", "32", "64"}},
      {"more layers", config("num_hidden_layers", 3), {"model.layers.2"}},
      {"fewer layers", config("num_hidden_layers", 1), {"model.layers.1"}},
      {"absurd layers", config("num_hidden_layers", 2000000000), {"num_hidden_layers"}},
      {"heads", config("num_key_value_heads", 3), {"num_key_value_heads"}},
      {"size as text", config("hidden_size", "16"), {"hidden_size"}},
      {"negative size", config("hidden_size", -16), {"hidden_size", "-16"}},
      {"architecture", config("architectures", Json::array({"MambaForCausalLM"})), {"Mamba"}},
      {"activation", config("hidden_act", "gelu"), {"gelu"}},
      {"rope type",
       config("rope_scaling", Json{{"type", "longrope"}, {"factor", 2.0}}),
       {"longrope"}},
      {"sliding window",
       [](Place& p) {
         p.edit_json("config.json", [](Json& j) {
           j["use_sliding_window"] = true;
           j["sliding_window"] = 4;
           j["max_window_layers"] = 0;
         });
       },
       {"sliding_window"}},
      {"no tokenizer",
       [](Place& p) { fs::remove(p.model + "/tokenizer.json"); },
       {"tokenizer.json"}},
      {"broken tokenizer",
       [](Place& p) { p.write("tokenizer.json", "{\"model\":{}}"); },
       {"model.vocab"}},
      {"no template",
       [](Place& p) {
         p.edit_json("tokenizer_config.json", [](Json& j) { j.erase("chat_template"); });
       },
       {"template"}},
      {"template that does not parse",
       [](Place& p) { p.chat_template("{% for %}"); },
       {"template"}},
      {"endless template",
       [](Place& p) {
         p.chat_template(
             "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}"
             "{% endfor %}{% endfor %}");
       },
       {"template"}},
      {"template that calls itself",
       [](Place& p) { p.chat_template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"); },
       {"template"}},
      {"template of huge output",
       [](Place& p) {
         p.chat_template(
             "{% set n = namespace(s='x') %}{% for i in range(60) %}"
             "{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}");
       },
       {"template"}},
      {"template with an include",
       [](Place& p) { p.chat_template("{% include '/etc/passwd' %}"); },
       {"template"}},
      {"template that refuses",
       [](Place& p) { p.chat_template("{{ raise_exception('not with me') }}"); },
       {"not with me"}},
      {"adapter that is none",
       [](Place& p) {
         p.extra = {"--adapter", p.model};
       },
       {"adapter_config.json"}},
  };
}

std::vector<Case> data_cases() {
  const auto data = [](std::string text) { return [=](Place& p) { p.write_data(text); }; };
  const std::string good = chats(1);
  return {
      {"no file", [](Place& p) { fs::remove(p.data); }, {"data.jsonl"}},
      {"empty", data(""), {"data.jsonl"}},
      {"not JSON", data(good + "{\"messages\": [\n"), {"data.jsonl:2"}},
      {"a number", data(good + "17\n"), {"data.jsonl:2", "17"}},
      {"unknown keys", data("{\"foo\": 1, \"bar\": 2}\n"), {"data.jsonl:1", "foo"}},
      {"content is a number",
       data("[{\"role\":\"user\",\"content\":3},{\"role\":\"assistant\",\"content\":\"x\"}]\n"),
       {"data.jsonl:1", "content"}},
      {"unknown role", data("[{\"role\":\"usr\",\"content\":\"a\"}]\n"), {"data.jsonl:1", "usr"}},
      {"invalid UTF-8", data(good + "{\"text\": \"a\xff\"}\n"), {"data.jsonl:2", "UTF-8"}},
      {"deep nesting", data(good + std::string(100000, '[') + "\n"), {"data.jsonl:2", "deep"}},
      {"chats among texts", data(good + "{\"text\": \"a\"}\n"), {"data.jsonl:2"}},
      {"token outside the embedding",
       data("{\"tokens\": [1, 2, 259, 3]}\n"),
       {"data.jsonl:1", "259"}},
      {"negative token", data("{\"tokens\": [1, -2]}\n"), {"data.jsonl:1", "-2"}},
      {"token that is none", data("{\"tokens\": [1, 2.5]}\n"), {"data.jsonl:1", "2.5"}},
      {"a list of no tokens", data("{\"tokens\": []}\n"), {"data.jsonl:1", "empty"}},
      {"marks of another length",
       data("{\"tokens\": [1, 2], \"trained\": [1]}\n"),
       {"data.jsonl:1", "trained"}},
      {"nothing to train", data("{\"tokens\": [1, 2], \"trained\": [0, 0]}\n"), {"train"}},
      {"nothing but users", data("[{\"role\":\"user\",\"content\":\"a\"}]\n"), {"train"}},
      {"a line of 100 MB",
       data("{\"text\": \"" + std::string(100 << 20, 'x') + "\"}\n"),
       {"data.jsonl:1", "16"}},
  };
}

std::vector<Case> flag_cases() {
  const auto flags = [](std::vector<std::string> f) { return [=](Place& p) { p.extra = f; }; };
  const auto command = [](std::vector<std::string> f) { return [=](Place& p) { p.command = f; }; };
  return {
      {"lr of letters", flags({"--lr", "abc"}), {"--lr", "abc"}},
      {"lr nan", flags({"--lr", "nan"}), {"--lr", "nan"}},
      {"lr negative", flags({"--lr", "-1"}), {"lr", "-1"}},
      {"lr zero", flags({"--lr", "0"}), {"lr", "0"}},
      {"lr out of range", flags({"--lr", "1e999"}), {"--lr", "1e999"}},
      {"misspelt", flags({"--lora_rnk", "4"}), {"--lora_rnk", "--lora_rank"}},
      {"misspelt choice", flags({"--lr_scheduler", "cosin"}), {"cosin", "cosine"}},
      {"twice", flags({"--seed", "1", "--seed", "2"}), {"--seed"}},
      {"no value", flags({"--lr"}), {"--lr"}},
      {"batch of none", flags({"--batch_size", "0"}), {"batch_size", "0"}},
      {"batch that overflows", flags({"--batch_size", "9223372036854775807"}), {"batch_size"}},
      {"number of 30 digits", flags({"--seed", "123456789012345678901234567890"}), {"--seed"}},
      {"fraction of an epoch", flags({"--num_epochs", "0.5"}), {"--num_epochs", "0.5"}},
      {"length 1", flags({"--max_length", "1"}), {"max_length", "1"}},
      {"memory of no unit", flags({"--memory", "12XB"}), {"--memory", "12XB"}},
      {"type", flags({"--dtype", "int8"}), {"int8"}},
      {"target that matches nothing", flags({"--lora_target", "qq_proj"}), {"qq_proj", "q_proj"}},
      {"block that isn't there", flags({"--lora_layers", "0,7"}), {"block 7", "counted from 0"}},
      {"freeze with LoRA", flags({"--freeze", "lm_head*"}), {"freeze"}},
      {"resume and overwrite",
       flags({"--resume", "auto", "--overwrite"}),
       {"--resume", "--overwrite"}},
      {"resume from nowhere", flags({"--resume", "/nowhere"}), {"/nowhere"}},
      {"eval without data", flags({"--eval_steps", "2"}), {"eval_dataset"}},
      {"tensor parallel", flags({"--tp", "2"}), {"--tp"}},
      {"word of no flag", flags({"hello"}), {"hello"}},
      {"unknown command", command({"sfft"}), {"sfft", "sft"}},
      {"save into a file", [](Place& p) { p.out = p.data; }, {"is a file"}},
      {"save into a model", [](Place& p) { p.out = p.model; }, {"model.safetensors"}},
      {"save where nothing can be written",
       [](Place& p) { p.out = "/proc/hone/run"; },
       {"/proc/hone"},
       1},
  };
}

class BadInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = new TempFolder;
    make_model(*work_, *work_ / "model");
  }
  static void TearDownTestSuite() { delete work_; }

  static void check(const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      SCOPED_TRACE(c.name);
      TempFolder folder;
      fs::copy(*work_ / "model", folder / "model", fs::copy_options::recursive);
      Place p{folder / "model", folder.write("data.jsonl", chats(3)), folder / "out", {}, {}};
      c.spoil(p);
      const auto before = picture(folder.path());
      std::vector<std::string> args = p.command;
      if (args.empty()) {
        args = {"sft", "--pretrained", p.model, "--dataset", p.data, "--lora_rank",
                "2",   "--save_dir",   p.out,   "--threads", "1"};
      }
      const Ended ended = run(args + p.extra);
      EXPECT_EQ(ended.code, c.code) << ended.err;
      std::string line;
      int errors = 0;
      std::istringstream lines(ended.err);
      for (std::string l; std::getline(lines, l);) {
        if (!l.starts_with("error: ")) continue;
        line = l;
        ++errors;
      }
      EXPECT_EQ(errors, 1) << ended.err;
      EXPECT_LT(line.size(), 700u) << line;
      EXPECT_EQ(line.find("internal error"), std::string::npos) << line;
      for (const std::string& part : c.said) EXPECT_HAS(line, part);
      EXPECT_EQ(ended.out, "");
      EXPECT_TRUE(picture(folder.path()) == before) << "something on disk changed";
    }
  }
  static TempFolder* work_;
};
TempFolder* BadInput::work_ = nullptr;

TEST_F(BadInput, Weights) { check(weight_cases()); }
TEST_F(BadInput, ConfigAndTemplate) { check(config_cases()); }
TEST_F(BadInput, Data) { check(data_cases()); }
TEST_F(BadInput, Flags) { check(flag_cases()); }

// What is odd but not wrong is said, and the run goes on.
TEST_F(BadInput, WarningsGoOn) {
  TempFolder folder;
  Json small = tiny_config();
  small["vocab_size"] = 258;  // the tokenizer's last id is 258
  const std::string model = folder / "model";
  const Ended made =
      run({"init", "--config", folder.write("small.json", small.dump()), "--output", model});
  ASSERT_EQ(made.code, 0) << made.err;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    fs::copy_file(*work_ / "model" + "/" + name, model + "/" + name);
  }
  const std::string data = folder.write(
      "data.jsonl",
      chats(3) +
          "{\"tokens\": [1, 2], \"trained\": [0, 0]}\n{\"tokens\": [3, 4], \"trained\": [0, 0]}\n");
  const Ended ended = run({"sft", "--pretrained", model, "--dataset", data, "--lora_rank", "2",
                           "--save_dir", folder / "out"});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_HAS(ended.err, "the tokenizer has ids up to 258 but the embedding has 258 rows");
  EXPECT_HAS(ended.err, "2 of");
  EXPECT_TRUE(fs::exists(folder / "out/adapter_model.safetensors"));
}

}  // namespace
}  // namespace hone::robust
