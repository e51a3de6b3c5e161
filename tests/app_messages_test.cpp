// What is said where a command is given another thing than it takes: what that is, and what to do.
#include "app_test_util.h"

namespace hone::test {
namespace {

constexpr const char* kCommands[] = {"chat --prompt x",        "generate --input ask.jsonl",
                                     "score -d d.jsonl",       "logits -i t.jsonl -o l.safetensors",
                                     "show -d d.jsonl",        "tokenize --input t.jsonl",
                                     "sft -d d.jsonl",         "plan sft -d d.jsonl",
                                     "merge --adapter a -o m", "bench"};

class Messages : public ::testing::Test {
 protected:
  void SetUp() override {
    work_.file("d.jsonl", R"({"messages":[{"role":"user","content":"Q"},)"
                          R"({"role":"assistant","content":"A"}]})"
                          "\n");
    work_.file("ask.jsonl", "{\"prompt\":\"Q\"}\n");
    work_.file("t.jsonl", "\"Q\"\n");
  }
  // Exit code 2 and one sentence.
  std::string said(const std::string& arguments) const {
    const Result r = work_.hone(arguments);
    EXPECT_EQ(r.code, 2) << arguments << "\n" << r.err;
    EXPECT_EQ(r.out, "") << arguments;
    return r.err;
  }
  Workplace work_;
};

TEST_F(Messages, WithoutAModelTheFlagIsNamed) {
  for (const std::string command : kCommands)
    EXPECT_NE(said(command).find("no model was given; use --pretrained DIR"), std::string::npos)
        << command << ": " << said(command);
}

TEST_F(Messages, WhatIsNotAModelIsToldForWhatItIs) {
  const std::string base = work_.model("qwen2");
  fs::create_directory(work_ / "ad");
  const auto adapter_of = [&](const std::string& name) {
    work_.file("ad/adapter_config.json", Json{{"base_model_name_or_path", name}}.dump());
  };
  for (const std::string command : kCommands) {
    const std::string with = command + " --pretrained ";
    adapter_of(base);
    EXPECT_NE(
        said(with + "ad")
            .find("ad holds an adapter, not a model; use --pretrained " + base + " --adapter ad"),
        std::string::npos)
        << command << ": " << said(with + "ad");
    adapter_of("Qwen/Qwen3-0.6B");
    EXPECT_NE(said(with + "ad").find("its base model (Qwen/Qwen3-0.6B) with --pretrained"),
              std::string::npos)
        << command;
    EXPECT_NE(said(with + "Qwen/Qwen3-0.6B").find("hf download Qwen/Qwen3-0.6B --local-dir"),
              std::string::npos)
        << command;
    EXPECT_NE(said(with + "./none/x").find("./none/x does not exist"), std::string::npos)
        << command;
    EXPECT_NE(
        said(with + base + "/config.json").find("is a file; give the folder it is in: " + base),
        std::string::npos)
        << command;
  }
}

TEST_F(Messages, TablesAreToldFromJson) {
  const std::string base = work_.model("qwen2");
  work_.file("d.csv", "prompt,completion\na,b\n");
  for (const std::string command :
       {"sft -d d.csv", "show -d d.csv", "score -d d.csv", "generate --input d.csv",
        "tokenize --input d.csv", "logits -o l.safetensors -i d.csv"}) {
    const std::string line = said(command + " --pretrained " + base);
    EXPECT_NE(line.find("d.csv is a CSV file (it begins with prompt,completion); make JSON lines"),
              std::string::npos)
        << command << ": " << line;
  }
}

TEST_F(Messages, TemplatesWithNamesAreChosenByThem) {
  const std::string base = work_.model("qwen2");
  const std::string config = read_file(work_ / base / "tokenizer_config.json");
  Json named = Json::parse(config);
  named["chat_template"] = {
      {{"name", "plain"}, {"template", "{% for m in messages %}{{ m.content }}</s>{% endfor %}"}},
      {{"name", "loud"}, {"template", "{% for m in messages %}{{ m.content }}!</s>{% endfor %}"}}};
  work_.file(base + "/tokenizer_config.json", named.dump());
  fs::remove(work_ / base / "chat_template.jinja");
  const std::string model = " --pretrained " + base;
  for (const std::string command :
       {"show -d d.jsonl", "chat --prompt x", "generate --input chat.jsonl"}) {
    work_.file("chat.jsonl", R"([{"role":"user","content":"Q"}])");
    const std::string line = said(command + model);
    EXPECT_NE(line.find("chat templates are named loud, plain, and none is the default; choose one "
                        "with --conversation_template loud"),
              std::string::npos)
        << command << ": " << line;
  }
  const Result loud =
      work_.hone("show --json -d d.jsonl --train_on all --chat_template loud" + model);
  EXPECT_EQ(loud.code, 0) << loud.err;
  EXPECT_EQ(Json::parse(loud.out).at("text"), "Q!</s>A!</s>");
  EXPECT_NE(said("show -d d.jsonl --chat_template quiet" + model)
                .find("quiet does not exist, and the model's own templates are named loud, plain"),
            std::string::npos);
}

}  // namespace
}  // namespace hone::test
