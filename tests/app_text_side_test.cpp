// How a run's template and end tokens reach its result, and whoever uses it.
#include "app_test_util.h"

namespace hone::test {
namespace {

constexpr int kPad = 0, kEnd = 2;  // of the fixtures' tokenizer

// Ends turns with <pad>, which is not the model's end token, and drops what was said in earlier
// answers but for their number.
const char* const kOther =
    "{% for m in messages %}<s>{{ m.role }} {{ mood | default('calm') }}\n"
    "{% if m.role == 'assistant' and not loop.last %}...{% else %}{{ m.content }}{% endif %}<pad>"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant {{ mood | default('calm') }}\n"
    "{% endif %}";
const char* const kTwoTurns =
    R"([{"role":"user","content":"a"},{"role":"assistant","content":"bc"},)"
    R"({"role":"user","content":"d"},{"role":"assistant","content":"efg"}])"
    "\n";

Json only_line(const std::string& text) { return Json::parse(text); }

// A small model with random weights, whose embedding has room for every byte.
std::string chat_model(const Workplace& w) {
  w.model("qwen2");
  Json config = Json::parse(read_file(w / "qwen2/config.json"));
  config["vocab_size"] = 260;
  w.file("config.json", config.dump());
  const Result r = w.hone("init --config config.json --tokenizer qwen2 --output chatty --seed 5");
  EXPECT_EQ(r.code, 0) << r.err;
  w.file("chatty/generation_config.json", R"({"temperature": 0.5, "eos_token_id": 2})");
  w.file("other.jinja", kOther);
  w.file("two.jsonl", kTwoTurns);
  w.file("q.jsonl", "[{\"role\": \"user\", \"content\": \"x\"}]\n");
  return "chatty";
}

TEST(TextSide, AResultHasItsRunsTemplateAndEnds) {
  const Workplace w;
  const std::string base = " --pretrained " + chat_model(w);
  const std::string other = " --conversation_template other.jinja";
  const Result r =
      w.hone("sft" + base + other + " --dataset two.jsonl --lora_rank 2 --lr 1e-2 --save_dir out");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("1 of 1 samples are trained answer by answer"), std::string::npos) << r.err;
  EXPECT_EQ(w.hone("merge" + base + " --adapter out --output merged").code, 0);
  const Result full = w.hone("sft" + base + other + " --dataset two.jsonl --save_dir full");
  ASSERT_EQ(full.code, 0) << full.err;
  for (const std::string folder : {"out", "merged", "full"}) {
    const Json generation = Json::parse(read_file(w / folder / "generation_config.json"));
    EXPECT_EQ(generation, Json({{"temperature", 0.5}, {"eos_token_id", {kEnd, kPad}}})) << folder;
    EXPECT_EQ(read_file(w / folder / "chat_template.jinja"), kOther) << folder;
    for (const std::string name : {"tokenizer.json", "tokenizer_config.json"})
      EXPECT_EQ(read_file(w / folder / name), read_file(w / "chatty" / name)) << folder << name;
  }
  // They are read with the adapter, and in a model by themselves.
  const std::string answer = " --input q.jsonl --temperature 0 --max_new_tokens 2";
  const Json asked = only_line(w.hone("generate" + base + other + answer).out).at("prompt_tokens");
  const auto of = [&](const std::string& more) {
    const Result g = w.hone("generate" + more + answer);
    EXPECT_EQ(g.code, 0) << g.err;
    return only_line(g.out);
  };
  EXPECT_EQ(of(base + " --adapter out").at("prompt_tokens"), asked);
  EXPECT_EQ(of(" --pretrained merged").at("prompt_tokens"), asked);
  EXPECT_NE(of(base).at("prompt_tokens"), asked);
  const int32_t drawn = of(base + " --adapter out --ignore_eos").at("tokens")[0];
  w.file("out/generation_config.json", Json{{"eos_token_id", drawn}}.dump());
  const Json stopped = of(base + " --adapter out");
  EXPECT_EQ(stopped.at("tokens"), Json({drawn}));
  EXPECT_EQ(stopped.at("finish_reason"), "stop");
}

TEST(TextSide, AnEndSaidByHand) {
  const Workplace w;
  const std::string base = " --pretrained " + chat_model(w);
  const std::string answer = " --input q.jsonl --temperature 0 --max_new_tokens 3";
  const Json free = only_line(w.hone("generate" + base + answer + " --ignore_eos").out);
  const std::string first = std::to_string(free.at("tokens")[0].get<int32_t>());
  const Json stopped = only_line(w.hone("generate" + base + answer + " --eos_token " + first).out);
  EXPECT_EQ(stopped.at("tokens").size(), 1u);
  EXPECT_EQ(stopped.at("finish_reason"), "stop");
  EXPECT_EQ(w.hone("generate" + base + answer + " --eos_token '<nothing>'").code, 2);

  w.file("t.jsonl", "{\"text\": \"ab\"}\n");
  const auto tokens = [&](const std::string& more) {
    const Result s = w.hone("score" + base + " --dataset t.jsonl" + more);
    EXPECT_EQ(s.code, 0) << s.err;
    return only_line(s.out).at("tokens");
  };
  EXPECT_EQ(tokens("").back(), kEnd);
  EXPECT_EQ(tokens("").size(), 3u);
  EXPECT_EQ(tokens(" --eos_token '<pad>'").back(), kPad);
  EXPECT_EQ(tokens(" --append_eos false").size(), 2u);
  const Result r =
      w.hone("sft" + base + " --dataset t.jsonl --eos_token '<pad>' --lora_rank 2 --save_dir out");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(Json::parse(read_file(w / "out/generation_config.json")).at("eos_token_id"), kPad);
}

TEST(TextSide, VariablesOfTheTemplate) {
  const Workplace w;
  const std::string base =
      " --pretrained " + chat_model(w) + " --conversation_template other.jinja";
  const auto shown = [&](const std::string& more) {
    const Result s = w.hone("show" + base + " --dataset two.jsonl --json" + more);
    EXPECT_EQ(s.code, 0) << s.err;
    return only_line(s.out).at("text").get<std::string>();
  };
  EXPECT_NE(shown("").find("assistant calm\n"), std::string::npos);
  for (const std::string kwargs : {"mood=glad", "'{\"mood\": \"glad\"}'"}) {
    const std::string flag = " --template_kwargs " + kwargs;
    EXPECT_NE(shown(flag).find("assistant glad\n"), std::string::npos) << kwargs;
    const auto length = [&](const std::string& more) {
      const Result g = w.hone("generate" + base + " --input q.jsonl --max_new_tokens 1" + more);
      return only_line(g.out).at("prompt_tokens").size();
    };
    EXPECT_EQ(length(flag), length(""));  // as many letters
  }
  EXPECT_EQ(w.hone("show" + base + " --dataset two.jsonl --template_kwargs glad").code, 2);
}

// Sequences of a record see nothing of each other: scores and losses are those of each alone.
TEST(TextSide, SequencesAreScoredAndTrainedAsIfAlone) {
  const Workplace w;
  const std::string base =
      " --pretrained " + chat_model(w) + " --conversation_template other.jinja --dtype fp32";
  const auto score = [&](const std::string& file) {
    const Result s = w.hone("score" + base + " --dataset " + file);
    EXPECT_EQ(s.code, 0) << s.err;
    w.file("scored.jsonl", s.out);
    return read_lines(w / "scored.jsonl");
  };
  const Json whole = score("two.jsonl").at(0);
  const std::vector<size_t> lengths = whole.at("sequences");
  ASSERT_EQ(lengths.size(), 2u);
  std::string alone;
  Json logprobs = Json::array();
  size_t begin = 0;
  const auto part = [&](const char* name, size_t length) {
    const Json& all = whole.at(name);
    const auto first = all.begin() + static_cast<ptrdiff_t>(begin);
    return Json(Json::array_t(first, first + static_cast<ptrdiff_t>(length)));
  };
  for (const size_t length : lengths) {
    alone += Json{{"tokens", part("tokens", length)}, {"trained", part("trained", length)}}.dump() +
             "\n";
    begin += length;
  }
  ASSERT_EQ(begin, whole.at("tokens").size());
  w.file("alone.jsonl", alone);
  for (const Json& line : score("alone.jsonl"))
    for (const Json& value : line.at("logprobs")) logprobs.push_back(value);
  EXPECT_EQ(whole.at("logprobs"), logprobs);
  EXPECT_TRUE(logprobs.at(lengths[0]).is_null());

  // What show and score print is such a data set again.
  w.file("again.jsonl", whole.dump() + "\n");
  EXPECT_EQ(score("again.jsonl").at(0), whole);

  const auto loss = [&](const std::string& file, const std::string& more) {
    const Result r = w.hone("sft" + base + " --dataset " + file + " --max_steps 1 --save_dir out " +
                            "--overwrite" + more);
    EXPECT_EQ(r.code, 0) << r.err;
    return read_lines(w / "out/metrics.jsonl").at(0).at("loss").get<double>();
  };
  const double one = loss("two.jsonl", " --batch_size 1");
  EXPECT_EQ(loss("alone.jsonl", " --batch_size 2 --shuffle false"), one);
  EXPECT_NEAR(loss("two.jsonl", " --batch_size 1 --micro_batch_tokens 1"), one, 1e-6 * one);
}

TEST(TextSide, CutSamplesAreCounted) {
  const Workplace w;
  const std::string base = " --pretrained " + chat_model(w);
  w.file("t.jsonl", "{\"text\": \"abcdefgh\"}\n{\"text\": \"ab\"}\n");
  const Result r =
      w.hone("sft" + base + " --dataset t.jsonl --lora_rank 2 --max_length 5 --save_dir out");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("1 of 2 samples were cut at max_length 5"), std::string::npos) << r.err;
}

}  // namespace
}  // namespace hone::test
