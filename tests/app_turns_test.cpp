// Where answers end and how turns are written, from data to the folder that is loaded again.
#include "app_test_util.h"

namespace hone::test {
namespace {

// The embedded model as a base model: its end-of-text token is not what ends a turn.
std::string base_model(const Workplace& w) {
  fs::copy(fs::path(HONE_SOURCE_DIR) / "demo/model", w / "base", fs::copy_options::recursive);
  const auto set = [&](const char* name, const char* key, const Json& value) {
    Json json = fs::exists(w / "base" / name) ? Json::parse(read_file(w / "base" / name)) : Json();
    json[key] = value;
    w.file(std::string("base/") + name, json.dump());
  };
  set("tokenizer_config.json", "eos_token", "<|endoftext|>");
  set("config.json", "eos_token_id", 0);
  set("generation_config.json", "eos_token_id", 0);
  set("generation_config.json", "top_k", 20);
  w.file("data.jsonl",
         R"({"messages":[{"role":"user","content":"Q"},{"role":"assistant","content":"A"}]})"
         "\n");
  w.file("ask.jsonl",
         R"([{"role":"user","content":"Anna has 7 apples. How many apples does Anna have?"}])"
         "\n");
  return "base";
}

Json answer(const Workplace& w, const std::string& flags) {
  const Result r =
      w.hone("generate --input ask.jsonl --temperature 0 --max_new_tokens 60 " + flags);
  EXPECT_EQ(r.code, 0) << r.err;
  return Json::parse(r.out);
}

TEST(Turns, WhatEndsAnAnswerStopsItAndIsSaved) {
  const Workplace w;
  const std::string model = base_model(w);
  const Json ends = {0, 2};
  // The template says it already.
  EXPECT_EQ(answer(w, "-m base").at("finish_reason"), "stop");
  // By hand: then nothing else ends it.
  EXPECT_EQ(answer(w, "-m base --eos_token '<|endoftext|>'").at("finish_reason"), "length");
  EXPECT_EQ(answer(w, "-m base --eos_token 2").at("finish_reason"), "stop");

  for (const std::string kind : {"--lora_rank 2", "--lr 1e-6"}) {
    const std::string out = kind[2] == 'l' && kind[3] == 'o' ? "adapter" : "tuned";
    const Result r =
        w.hone("sft -m base -d data.jsonl --max_steps 1 --save_dir " + out + " " + kind);
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_NE(r.err.find("next: hone chat --pretrained"), std::string::npos) << r.err;
    const Json saved = Json::parse(read_file(w / out / "generation_config.json"));
    EXPECT_EQ(saved.at("eos_token_id"), ends);
    EXPECT_EQ(saved.at("top_k"), 20);
    EXPECT_EQ(
        read_file(w / out / "chat_template.jinja"),
        Json::parse(read_file(w / "base/tokenizer_config.json")).value("chat_template", "") +
            (fs::exists(w / "base/chat_template.jinja") ? read_file(w / "base/chat_template.jinja")
                                                        : ""));
  }
  // An engine that reads nothing but generation_config.json.
  fs::remove(w / "tuned/chat_template.jinja");
  w.file("text.jsonl", Json{{"tokens", answer(w, "-m base").at("prompt_tokens")}}.dump() + "\n");
  const Result bare = w.hone("generate -m tuned --input text.jsonl --temperature 0");
  EXPECT_EQ(Json::parse(bare.out).at("finish_reason"), "stop") << bare.err;
  EXPECT_EQ(answer(w, "-m base --adapter adapter").at("finish_reason"), "stop");
  EXPECT_EQ(w.hone("generate -m base --input ask.jsonl --eos_token '<nosuch>'").code, 2);
}

// A template that writes earlier answers in another way, and reads a variable.
constexpr const char* kRewriting =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}[{{ m.content }}]{% else %}{{ m.content }}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if note is defined %}{{ note }}{% endif %}";

TEST(Turns, AnswersAreSequencesOfTheirOwn) {
  const Workplace w;
  base_model(w);
  w.file("t.jinja", kRewriting);
  w.file("talk.jsonl",
         R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
         R"({"role":"user","content":"c"},{"role":"assistant","content":"d"}]})"
         "\n");
  const Result r = w.hone("score -m base -d talk.jsonl --chat_template t.jinja --dtype fp32");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("1 of 1 samples are trained answer by answer"), std::string::npos) << r.err;
  const Json line = Json::parse(r.out);
  const std::vector<int64_t> lengths = line.at("sequences");
  ASSERT_EQ(lengths.size(), 2U);
  const std::vector<int32_t> tokens = line.at("tokens");
  const std::vector<int> trained = line.at("trained");
  ASSERT_EQ(static_cast<size_t>(lengths[0] + lengths[1]), tokens.size());
  // Each is the bits of its tokens alone.
  int64_t begin = 0;
  for (const int64_t n : lengths) {
    w.file(
        "one.jsonl",
        Json{{"tokens", std::vector<int32_t>(tokens.begin() + begin, tokens.begin() + begin + n)}}
                .dump() +
            "\n");
    const Result one = w.hone("score -m base -d one.jsonl --dtype fp32");
    ASSERT_EQ(one.code, 0) << one.err;
    const Json alone = Json::parse(one.out).at("logprobs");
    for (int64_t t = 0; t < n; ++t)
      EXPECT_EQ(line.at("logprobs").at(static_cast<size_t>(begin + t)),
                alone.at(static_cast<size_t>(t)));
    begin += n;
  }
  EXPECT_EQ(std::count(trained.begin(), trained.end(), 1), 4);  // b, d and two ends

  // Trained: the loss is that of the answers, whatever they are packed with.
  const std::string train =
      "sft -m base -d talk.jsonl --chat_template t.jinja --lora_rank 2 --max_steps 2 --self_check ";
  for (const std::string budget : {"4096", "8"}) {
    const Result s = w.hone(train + "--micro_batch_tokens " + budget + " --save_dir o" + budget);
    ASSERT_EQ(s.code, 0) << s.err;
    EXPECT_EQ(read_file(w / ("o" + budget) / "chat_template.jinja"), kRewriting);
  }
  const auto loss = [&](const std::string& budget) {
    return read_lines(w / ("o" + budget) / "metrics.jsonl").at(0).at("loss").get<double>();
  };
  double expected = 0;
  for (size_t t = 0; t < tokens.size(); ++t)
    if (trained[t]) expected -= line.at("logprobs").at(t).get<double>() / 4;
  EXPECT_NEAR(loss("4096"), expected, 0.02);  // bf16 or fp32
  EXPECT_NEAR(loss("8"), loss("4096"), 1e-2 * expected);

  const Result with = w.hone(
      "show -m base -d talk.jsonl --json --chat_template t.jinja --train_on all "
      "--template_kwargs '{\"note\": \"N1\"}'");
  EXPECT_NE(with.out.find("N1"), std::string::npos) << with.err;
  const Result pairs = w.hone(
      "show -m base -d talk.jsonl --json --chat_template t.jinja --train_on all "
      "--template_kwargs note=N2");
  EXPECT_NE(pairs.out.find("N2"), std::string::npos) << pairs.err;
  EXPECT_EQ(w.hone("show -m base -d talk.jsonl --template_kwargs nonsense").code, 2);
  EXPECT_EQ(w.hone("show -m base -d talk.jsonl --template_kwargs nosuch=1").code, 2);
  EXPECT_EQ(w.hone("show -m base -d talk.jsonl --chat_template none.jinja").code, 2);
}

TEST(Turns, CutSamplesAreCounted) {
  const Workplace w;
  base_model(w);
  const Result r = w.hone("sft -m base -d data.jsonl --lora_rank 2 --max_length 10 --save_dir o");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("1 of 1 samples were cut at max_length 10"), std::string::npos) << r.err;
}

// A template that knows tools and calls in one form alone.
constexpr const char* kToolTemplate =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is none %}{% for c in m.tool_calls %}{{ c.function.name + '(' + "
    "c.function.arguments + ')' }}{% endfor %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

TEST(Turns, CallsComeOutAsTheTemplateTakesThem) {
  const Workplace w;
  base_model(w);
  w.file("t.jinja", kToolTemplate);
  for (const std::string arguments : {R"({"a": 1})", R"("{\"a\": 1}")"}) {
    for (const std::string content : {R"("content":"",)", R"("content":null,)", ""}) {
      w.file("call.jsonl", R"({"messages":[{"role":"user","content":"add"},{"role":"assistant",)" +
                               content + R"("tool_calls":[{"type":"function","function":)" +
                               R"({"name":"add","arguments":)" + arguments + "}}]}]}\n");
      const Result r = w.hone("show -m base -d call.jsonl --json --chat_template t.jinja");
      ASSERT_EQ(r.code, 0) << r.err;
      EXPECT_NE(Json::parse(r.out).at("text").get<std::string>().find("add({\"a\": 1})<|im_end|>"),
                std::string::npos)
          << r.out;
    }
  }
}

TEST(Turns, FieldsThatReachNothingAreSaid) {
  const Workplace w;
  base_model(w);
  w.file("d.jsonl",
         R"({"id":1,"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],)"
         R"("messages":[{"role":"user","content":"a","name":"Ann"},)"
         R"({"role":"assistant","content":"b","loss":true}]})"
         "\n"
         R"({"id":2,"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})"
         "\n");
  const Result r = w.hone("sft -m base -d d.jsonl --lora_rank 2 --save_dir o");
  ASSERT_EQ(r.code, 0) << r.err;
  const auto said = [&](const std::string& text) {
    const size_t at = r.err.find(text);
    return at != std::string::npos && r.err.find(text, at + 1) == std::string::npos;
  };
  EXPECT_TRUE(said("fields that are not used: \"id\" (2 records)")) << r.err;
  EXPECT_TRUE(said("warning: fields of conversations that reach neither text nor mask")) << r.err;
  EXPECT_TRUE(said("\"tools\" (1 record), \"name\" of user messages (1 record)")) << r.err;
  EXPECT_EQ(r.err.find("\"loss\""), std::string::npos) << r.err;
}

}  // namespace
}  // namespace hone::test
