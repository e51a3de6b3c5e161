// The hone binary from end to end, on the golden models.
#include <fcntl.h>
#include <signal.h>

#include <algorithm>
#include <cmath>

#include "app_test_util.h"
#include "backend/cpu/cpu.h"
#include "core/rng.h"
#include "io/safetensors.h"
#include "support/golden.h"

namespace hone::test {
namespace {

std::string tokens_text(const std::vector<int32_t>& tokens) { return Json(tokens).dump(); }

// Lines of {"tokens"}: short sequences that follow a rule one can learn.
std::string counting_data(int lines, int64_t vocab, uint64_t seed) {
  std::string text;
  for (int i = 0; i < lines; ++i) {
    const auto w = random_words(seed, Purpose::test, 1, static_cast<uint64_t>(i));
    const int64_t length = 6 + w[0] % 20, step = 1 + w[1] % 2;
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t < length; ++t)
      tokens.push_back(static_cast<int32_t>((w[2] % 50 + t * step) % std::min<int64_t>(vocab, 60)));
    text += Json{{"tokens", tokens}}.dump() + "\n";
  }
  return text;
}

int64_t vocab_of(const Workplace& w, const std::string& model) {
  return Json::parse(read_file(w / model / "config.json")).at("vocab_size");
}

std::vector<double> tensor(const fs::path& path, const std::string& name) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  const io::TensorEntry& t = file.at(name);
  std::vector<float> values(static_cast<size_t>(t.elements()));
  io::read_as_float(t, 0, values);
  return {values.begin(), values.end()};
}

TEST(Generate, GreedyIsTheGoldenContinuation) {
  for (const char* family : {"qwen2", "llama3", "qwen3"}) {
    const Workplace w;
    const std::string model = w.model(family);
    const Golden golden(family);
    w.file("p.jsonl", Json{{"tokens", golden.tokens("seq.1.tokens")}, {"id", "a"}}.dump() + "\n");
    const Result r = w.hone("generate --pretrained " + model +
                            " --input p.jsonl --output a.jsonl --temperature 0 --dtype fp32 "
                            "--max_new_tokens 24 --ignore_eos");
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(r.out, "");
    EXPECT_NE(r.err.find("tokens/s"), std::string::npos);
    const std::vector<Json> lines = read_lines(w / "a.jsonl");
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0].at("tokens").get<std::vector<int32_t>>(), golden.tokens("greedy.tokens"));
    EXPECT_EQ(lines[0].at("prompt_tokens").get<std::vector<int32_t>>(),
              golden.tokens("seq.1.tokens"));
    EXPECT_EQ(lines[0].at("id"), "a");
    EXPECT_EQ(lines[0].at("finish_reason"), "length");
    EXPECT_EQ(lines[0].at("sample"), 0);
    EXPECT_EQ(lines[0].at("logprobs").size(), 24U);
  }
}

// The same bits whatever runs together, on however many threads, in both types, on every path.
TEST(Generate, LogprobsAreTheBitsOfScore) {
  const Workplace w;
  const std::string model = w.model("qwen2");
  const int64_t vocab = vocab_of(w, model);
  std::string prompts;
  for (uint64_t i = 0; i < 5; ++i) {
    std::vector<int32_t> tokens;
    for (uint64_t t = 0; t < 1 + 23 * i; ++t)
      tokens.push_back(static_cast<int32_t>(random_words(9, Purpose::test, i, t)[0] %
                                            static_cast<uint64_t>(vocab)));
    prompts += Json{{"tokens", tokens}}.dump() + "\n";
  }
  w.file("p.jsonl", prompts);
  for (const cpu::Isa isa : cpu::available_isas()) {
    const std::string path = "HONE_ISA=" + std::string(cpu::isa_name(isa));
    for (const char* dtype : {"bf16", "fp32"}) {
      std::string first;
      for (const char* shape : {"--batch_size 1 --threads 1", "--batch_size 3 --threads 2",
                                "--batch_size 16 --threads 1"}) {
        const Result r = w.hone("generate --pretrained " + model + " --input p.jsonl --dtype " +
                                    dtype + " --num_samples 2 --max_new_tokens 20 " + shape,
                                path);
        ASSERT_EQ(r.code, 0) << r.err;
        if (first.empty()) first = r.out;
        ASSERT_EQ(r.out, first) << path << " " << dtype << " " << shape;
      }
      std::istringstream lines(first);
      std::string data;
      std::vector<Json> generated;
      for (std::string line; std::getline(lines, line);) {
        generated.push_back(Json::parse(line));
        Json all = generated.back().at("prompt_tokens");
        for (const Json& t : generated.back().at("tokens")) all.push_back(t);
        data += Json{{"tokens", all}}.dump() + "\n";
      }
      ASSERT_EQ(generated.size(), 10U);
      w.file("s.jsonl", data);
      const Result s = w.hone("score --pretrained " + model +
                                  " --dataset s.jsonl --output scores.jsonl --dtype " + dtype,
                              path);
      ASSERT_EQ(s.code, 0) << s.err;
      const std::vector<Json> scored = read_lines(w / "scores.jsonl");
      ASSERT_EQ(scored.size(), generated.size());
      for (size_t i = 0; i < scored.size(); ++i) {
        const Json& mine = generated[i].at("logprobs");
        const Json& theirs = scored[i].at("logprobs");
        EXPECT_TRUE(theirs.at(0).is_null());
        const size_t from = theirs.size() - mine.size();
        ASSERT_EQ(from, generated[i].at("prompt_tokens").size());
        for (size_t t = 0; t < mine.size(); ++t)
          ASSERT_EQ(mine[t].get<double>(), theirs[from + t].get<double>())
              << path << " " << dtype << " sample " << i << " token " << t;
      }
    }
  }
}

// A random model whose embedding has room for every byte.
std::string chat_model(const Workplace& w) {
  w.model("qwen2");
  Json config = Json::parse(read_file(w / "qwen2/config.json"));
  config["vocab_size"] = 260;
  w.file("config.json", config.dump());
  const Result r = w.hone("init --config config.json --tokenizer qwen2 --output chatty --seed 5");
  EXPECT_EQ(r.code, 0) << r.err;
  return "chatty";
}

TEST(Generate, ChatsTextsAndStops) {
  const Workplace w;
  const std::string model = chat_model(w);
  w.file("p.jsonl",
         "{\"prompt\": \"ab\", \"note\": 0.1}\n\n"
         "[{\"role\": \"user\", \"content\": \"x\"}]\n"
         "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"answer\": 3}\n");
  const Result r = w.hone("generate --pretrained " + model + " --input p.jsonl --max_new_tokens 3");
  ASSERT_EQ(r.code, 0) << r.err;
  std::istringstream lines(r.out);
  std::vector<Json> got;
  for (std::string line; std::getline(lines, line);) got.push_back(Json::parse(line));
  ASSERT_EQ(got.size(), 3U);
  EXPECT_EQ(got[0].at("note"), 0.1);
  EXPECT_EQ(got[0].at("prompt_tokens").size(), 2U);  // no special tokens: the tokenizer adds none
  EXPECT_EQ(got[2].at("answer"), 3);
  EXPECT_EQ(got[1].at("prompt_tokens"), got[2].at("prompt_tokens"));
  EXPECT_EQ(got[1].at("prompt_tokens")[0], 1);  // <s>
  EXPECT_EQ(got[1].at("messages").size(), 1U);

  // A drawn stop token ends the completion and is part of it.
  const std::vector<int32_t> first = got[0].at("tokens");
  w.file((fs::path(model) / "generation_config.json").string(),
         Json{{"eos_token_id", {first[0]}}}.dump());
  w.file("one.jsonl", "{\"prompt\": \"ab\"}\n");
  const Result s =
      w.hone("generate --pretrained " + model + " --input one.jsonl --max_new_tokens 3");
  ASSERT_EQ(s.code, 0) << s.err;
  const Json stopped = Json::parse(s.out);
  EXPECT_EQ(stopped.at("tokens"), Json({first[0]}));
  EXPECT_EQ(stopped.at("logprobs").size(), 1U);
  EXPECT_EQ(stopped.at("finish_reason"), "stop");
}

TEST(Chat, AnswersFromStdinAndFromAFlag) {
  const Workplace w;
  const std::string model = chat_model(w);
  const Result once =
      w.hone("chat --pretrained " + model + " --prompt hi --temperature 0 --max_new_tokens 4");
  EXPECT_EQ(once.code, 0) << once.err;
  EXPECT_EQ(once.out.back(), '\n');
  w.file("questions", "hi\n/new\n\nhi\n/exit\nhi\n");
  const Result r =
      w.hone("chat --pretrained " + model + " --temperature 0 --max_new_tokens 4", "", "questions");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, once.out + once.out);
  EXPECT_EQ(w.hone("chat --pretrained " + model + " --prompt hi --top_p 2").code, 2);
  fs::remove(w / "chatty/chat_template.jinja");
  const Result none = w.hone("chat --pretrained " + model + " --prompt hi");
  EXPECT_EQ(none.code, 2);
  EXPECT_NE(none.err.find("no chat template"), std::string::npos);
}

TEST(Generate, BadInputNamesFileAndLine) {
  const Workplace w;
  const std::string model = w.model("qwen2");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{\"tokens\": [1]}\n{\"tokens\": [99999]}\n", "p.jsonl:2: token id 99999 is outside"},
      {"{\"tokens\": []}\n", "p.jsonl:1: the list of token ids is empty"},
      {"{\"tokens\": [1.5]}\n", "p.jsonl:1: element 0 is 1.5"},
      {"\n{\"prompt\": 3}\n", "p.jsonl:2: \"prompt\" is number"},
      {"{\"prompt\": \"\"}\n", "p.jsonl:1: the prompt has no tokens"},
      {"nonsense\n", "p.jsonl:1:"},
      {"{\"x\": 1}\n", "p.jsonl:1: found an object with none of these fields"},
      {"{\"messages\": []}\n", "p.jsonl:1:"},
      {"{\"prompt\": \"\xff\"}\n", "p.jsonl:1:"},
      {"\n", "p.jsonl has no prompts"},
  };
  for (const auto& [text, message] : cases) {
    w.file("p.jsonl", text);
    const Result r = w.hone("generate --pretrained " + model + " --input p.jsonl --output a.jsonl");
    EXPECT_EQ(r.code, 2) << text;
    EXPECT_NE(r.err.find(message), std::string::npos) << text << r.err;
    EXPECT_FALSE(fs::exists(w / "a.jsonl"));
  }
}

TEST(Logits, AreTheGoldenOnes) {
  const Workplace w;
  const Golden golden("llama3");
  const std::string model = w.model("llama3");
  w.file("t.jsonl", tokens_text(golden.tokens("seq.1.tokens")) + "\n" +
                        tokens_text(golden.tokens("seq.4.tokens")) + "\n");
  const Result r = w.hone("logits --pretrained " + model +
                          " --input t.jsonl --output l.safetensors --dtype fp32");
  ASSERT_EQ(r.code, 0) << r.err;
  // The bound for fp32 logits of every family.
  EXPECT_LT(error(tensor(w / "l.safetensors", "0"), golden.values("seq.1.logits")), 1e-5);
  EXPECT_LT(error(tensor(w / "l.safetensors", "1"), golden.values("seq.4.logits")), 1e-5);
}

// All-linear of a mixture of experts: every expert, named as PEFT names what it adapts; no router.
TEST(Sft, AnAdapterOfExpertsLearnsAndMerges) {
  const Workplace w;
  const std::string model = w.model("qwen3_moe");
  w.file("d.jsonl", counting_data(40, vocab_of(w, model), 3));
  const std::string sft = "sft --pretrained " + model +
                          " --dataset d.jsonl --lora_rank 4 --lora_alpha 8 --lr 2e-2 --batch_size "
                          "8 --num_epochs 4 --dtype fp32 --save_dir ";
  const Result r = w.hone(sft + "out");
  ASSERT_EQ(r.code, 0) << r.err;
  const std::vector<Json> metrics = read_lines(w / "out" / "metrics.jsonl");
  EXPECT_LT(metrics.back().at("loss").get<double>(), 0.8 * metrics[0].at("loss").get<double>());
  const Json config = Json::parse(read_file(w / "out" / "adapter_config.json"));
  EXPECT_EQ(config.at("target_parameters"),
            Json({"mlp.down_proj.weight", "mlp.experts.down_proj", "mlp.experts.gate_up_proj",
                  "mlp.gate_proj.weight", "mlp.up_proj.weight"}));  // of the dense block, too
  for (const Json& name : config.at("target_modules")) EXPECT_NE(name, "gate");
  ASSERT_EQ(w.hone("merge --pretrained " + model + " --adapter out --output merged").code, 0);
  w.file("t.jsonl", "[1, 2, 3, 4, 5, 6, 7, 8, 9]\n");
  const auto logits = [&](const std::string& of) {
    EXPECT_EQ(w.hone("logits --pretrained " + of + " --input t.jsonl --output l.safetensors").code,
              0);
    return tensor(w / "l.safetensors", "0");
  };
  const auto adapted = logits(model + " --adapter out");
  EXPECT_LT(error(logits("merged"), adapted), 1e-5);
  EXPECT_GT(error(logits(model), adapted), 1e-2);
  const Result dropped = w.hone(sft + "again --lora_dropout 0.1");
  EXPECT_EQ(dropped.code, 2);
  EXPECT_NE(dropped.err.find("experts"), std::string::npos) << dropped.err;
}

TEST(Sft, AnAdapterLearnsLoadsBackAndMerges) {
  const Workplace w;
  const std::string model = w.model("qwen2");
  w.file("d.jsonl", counting_data(40, vocab_of(w, model), 3));
  const Result r = w.hone("sft --pretrained " + model +
                          " --dataset d.jsonl --lora_rank 4 --lora_alpha 8 --lr 2e-2 --batch_size "
                          "8 --num_epochs 6 --save_dir out --config_file eff.json --dtype fp32");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "");
  const std::vector<Json> metrics = read_lines(w / "out" / "metrics.jsonl");
  ASSERT_EQ(metrics.size(), 30U);
  for (const char* field : {"step", "loss", "learning_rate", "grad_norm", "tokens",
                            "trained_tokens", "tokens_per_second", "peak_memory"})
    EXPECT_TRUE(metrics[0].contains(field)) << field;
  EXPECT_LT(metrics.back().at("loss").get<double>(), 0.8 * metrics[0].at("loss").get<double>());
  EXPECT_TRUE(fs::exists(w / "out" / "adapter_model.safetensors"));
  EXPECT_EQ(Json::parse(read_file(w / "eff.json")).at("lora_rank"), 4);

  // A second run into the folder is refused; a finished one has nothing to resume.
  const std::string again = "sft --config out/run.json ";
  const std::string before = read_file(w / "out" / "adapter_model.safetensors");
  EXPECT_EQ(w.hone(again).code, 2);
  EXPECT_EQ(w.hone(again + "--resume auto").code, 0);
  EXPECT_EQ(read_file(w / "out" / "adapter_model.safetensors"), before);

  const auto mean = [&](const std::string& adapter) {
    const Result s = w.hone("score --pretrained " + model + adapter + " --dataset d.jsonl");
    EXPECT_EQ(s.code, 0) << s.err;
    double sum = 0;
    std::istringstream lines(s.out);
    for (std::string line; std::getline(lines, line);) {
      const Json parsed = Json::parse(line);
      for (const Json& v : parsed.at("logprobs"))
        if (!v.is_null()) sum += v.get<double>();
    }
    EXPECT_LT(sum, 0);
    return sum;
  };
  EXPECT_GT(mean(" --adapter out"), 0.8 * mean(""));  // log-probs are negative

  const Result m =
      w.hone("merge --pretrained " + model + " --adapter out --output merged --prompts d.jsonl");
  ASSERT_EQ(m.code, 0) << m.err;
  EXPECT_NE(m.out.find("greedy answers            32 of 32 equal"), std::string::npos) << m.out;
  w.file("t.jsonl", "[1, 2, 3, 4, 5, 6, 7, 8, 9]\n");
  ASSERT_EQ(w.hone("logits --pretrained merged --input t.jsonl --output m.safetensors").code, 0);
  ASSERT_EQ(w.hone("logits --pretrained " + model +
                   " --adapter out --input t.jsonl --output a.safetensors")
                .code,
            0);
  ASSERT_EQ(w.hone("logits --pretrained " + model + " --input t.jsonl --output b.safetensors").code,
            0);
  const auto merged = tensor(w / "m.safetensors", "0"), adapted = tensor(w / "a.safetensors", "0");
  // One rounding of each weight to fp32 and another order of summing: the bound for fp32 logits.
  EXPECT_LT(error(merged, adapted), 1e-5);
  EXPECT_GT(error(tensor(w / "b.safetensors", "0"), adapted), 1e-2);
  EXPECT_EQ(w.hone("merge --pretrained " + model + " --adapter out --output merged").code, 2);

  // Going on from the adapter takes its shape.
  const Result more = w.hone("sft --pretrained " + model +
                             " --dataset d.jsonl --adapter out --max_steps 2 --save_dir more");
  ASSERT_EQ(more.code, 0) << more.err;
  // Also where flags say it again, as the first run's file does.
  const Result said =
      w.hone("sft --config out/run.json --adapter out --max_steps 2 --save_dir said");
  ASSERT_EQ(said.code, 0) << said.err;
  EXPECT_EQ(read_file(w / "said/adapter_config.json"), read_file(w / "more/adapter_config.json"));
  for (const char* other : {"--lora_layers 0", "--lora_target q_proj,v_proj"}) {
    const Result differs =
        w.hone("sft --config out/run.json --adapter out --save_dir no --max_steps 2 " +
               std::string(other));
    EXPECT_EQ(differs.code, 2);
    EXPECT_NE(differs.err.find("differs from the adapter in out"), std::string::npos)
        << differs.err;
  }
  EXPECT_EQ(Json::parse(read_file(w / "more" / "adapter_config.json")).at("r"), 4);
}

// Whatever names the layers: what is tuned is what was asked for, and is read again.
TEST(Sft, TheAdapterSaysWhichLayersItTunes) {
  const Workplace w;
  const std::string model = w.model("qwen2");
  w.file("d.jsonl", counting_data(8, vocab_of(w, model), 3));
  w.file("t.jsonl", "[1, 2, 3, 4, 5, 6, 7, 8, 9]\n");
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"--lora_layers 0", {"layers.0."}},
      {"--lora_target '.*(q|v)_proj' --lora_layers 1",
       {"layers.1.self_attn.q", "layers.1.self_attn.v"}},
      {"--lora_target 'model.layers.0.mlp.*'", {"layers.0.mlp."}},
      {"--lora_target up_proj,1.self_attn.q_proj", {"mlp.up_proj", "layers.1.self_attn.q_proj"}},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const auto& [flags, parts] = cases[i];
    SCOPED_TRACE(flags);
    const std::string out = "out" + std::to_string(i);
    const Result r = w.hone("sft --pretrained " + model + " --dataset d.jsonl --lora_rank 2 " +
                            flags + " --lr 1e-2 --max_steps 2 --save_dir " + out);
    ASSERT_EQ(r.code, 0) << r.err;
    const Json config = Json::parse(read_file(w / out / "adapter_config.json"));
    EXPECT_TRUE(config.at("target_modules").is_array()) << config;
    const auto file = io::SafetensorsFile::open(w / out / "adapter_model.safetensors");
    std::vector<int> found(parts.size());
    for (const io::TensorEntry& t : file.tensors()) {
      int fits = 0;
      for (size_t p = 0; p < parts.size(); ++p) {
        if (t.name.find(parts[p]) == std::string::npos) continue;
        ++fits;
        ++found[p];
      }
      EXPECT_EQ(fits, 1) << t.name;
    }
    for (const int n : found) EXPECT_GT(n, 0);
    const std::string use = " --pretrained " + model + " --adapter " + out;
    const Result l = w.hone("logits" + use + " --input t.jsonl --output " + out + ".safetensors");
    EXPECT_EQ(l.code, 0) << l.err;
    const Result m = w.hone("merge" + use + " --output merged" + out);
    EXPECT_EQ(m.code, 0) << m.err;
    const Result more =
        w.hone("sft" + use + " --dataset d.jsonl --max_steps 1 --save_dir more" + out);
    EXPECT_EQ(more.code, 0) << more.err;
    EXPECT_EQ(
        Json::parse(read_file(w / ("more" + out) / "adapter_config.json")).at("target_modules"),
        config.at("target_modules"));
  }
}

// A checkpoint's folder is an adapter like any.
TEST(Sft, AnAdaptersCheckpointCanBeUsed) {
  const Workplace w;
  const std::string model = w.model("qwen2");
  w.file("d.jsonl", counting_data(16, vocab_of(w, model), 3));
  w.file("t.jsonl", "[1, 2, 3, 4, 5, 6, 7, 8, 9]\n");
  const std::string base = " --pretrained " + model, data = " --dataset d.jsonl";
  const Result r = w.hone(
      "sft" + base + data +
      " --lora_rank 2 --lora_layers 0 --lr 1e-2 --max_steps 4 --save_steps 2 --save_dir out");
  ASSERT_EQ(r.code, 0) << r.err;
  const auto logits = [&](const std::string& adapter) {
    const Result l = w.hone("logits" + base + " --adapter " + adapter +
                            " --input t.jsonl --output l.safetensors");
    EXPECT_EQ(l.code, 0) << l.err;
    return tensor(w / "l.safetensors", "0");
  };
  const std::vector<double> result = logits("out");
  EXPECT_EQ(logits("out/checkpoints/step-4"), result);
  EXPECT_GT(error(logits("out/checkpoints/step-2"), result), 1e-4);
  for (const std::string name :
       {"adapter_config.json", "generation_config.json", "chat_template.jinja"}) {
    EXPECT_NE(read_file(w / "out" / name), "") << name;
    EXPECT_EQ(read_file(w / "out/checkpoints/step-4" / name), read_file(w / "out" / name)) << name;
  }
  const std::string half = " --adapter out/checkpoints/step-2";
  EXPECT_EQ(w.hone("merge" + base + half + " --output merged").code, 0);
  EXPECT_EQ(w.hone("sft" + base + half + data + " --max_steps 1 --save_dir more").code, 0);

  // A run that was stopped on its way has no adapter at the top.
  fs::remove(w / "out/adapter_config.json");
  fs::remove(w / "out/adapter_model.safetensors");
  for (const std::string command :
       {"logits --input t.jsonl --output x", "sft --dataset d.jsonl --save_dir x"}) {
    const Result stopped = w.hone(command + base + " --adapter out");
    EXPECT_EQ(stopped.code, 2);
    EXPECT_NE(stopped.err.find("isn't finished, use its newest checkpoint: out/checkpoints/step-4"),
              std::string::npos)
        << stopped.err;
  }
}

// And after full tuning a model like any: the trained weights, and those that were frozen.
TEST(Sft, AModelsCheckpointCanBeUsed) {
  const Workplace w;
  const std::string model = w.model("qwen2");
  w.file("d.jsonl", counting_data(16, vocab_of(w, model), 3));
  w.file("t.jsonl", "[1, 2, 3, 4, 5, 6, 7, 8, 9]\n");
  const auto logits = [&](const std::string& folder) {
    const Result l =
        w.hone("logits --pretrained " + folder + " --input t.jsonl --output l.safetensors");
    EXPECT_EQ(l.code, 0) << l.err;
    return tensor(w / "l.safetensors", "0");
  };
  for (const std::string flags :
       {"--dtype fp32", "--dtype bf16", "--dtype bf16 --freeze 'model.layers.0.*'"}) {
    SCOPED_TRACE(flags);
    const Result r = w.hone(
        "sft --pretrained " + model +
        " --dataset d.jsonl --lr 1e-2 --max_steps 4 --save_steps 2 --overwrite --save_dir out " +
        flags);
    ASSERT_EQ(r.code, 0) << r.err;
    const std::vector<double> result = logits("out");
    EXPECT_EQ(logits("out/checkpoints/step-4"), result);
    EXPECT_GT(error(logits("out/checkpoints/step-2"), result), 1e-3);
  }
  EXPECT_EQ(w.hone("sft --pretrained out/checkpoints/step-2 --dataset d.jsonl --max_steps 1 "
                   "--save_dir more")
                .code,
            0);
  for (const char* name : {"config.json", "model.safetensors"}) fs::remove(w / "out" / name);
  const Result stopped = w.hone("logits --pretrained out --input t.jsonl --output x");
  EXPECT_EQ(stopped.code, 2);
  EXPECT_NE(stopped.err.find("use its newest checkpoint: out/checkpoints/step-4"),
            std::string::npos)
      << stopped.err;
}

TEST(Sft, AWarmUpThatTakesTheWholeRunIsSaid) {
  const Workplace w;
  const std::string model = w.model("qwen2");
  w.file("d.jsonl", counting_data(8, vocab_of(w, model), 3));
  const std::string sft =
      "sft --pretrained " + model + " --dataset d.jsonl --lora_rank 2 --lr 1e-3 --max_steps 4";
  const Result longer = w.hone(sft + " --warmup_steps 100 --save_dir a");
  ASSERT_EQ(longer.code, 0) << longer.err;
  EXPECT_NE(longer.err.find("the warm-up of 100 steps takes the whole run of 4: the learning rate "
                            "ends at 4e-05 of --lr 0.001"),
            std::string::npos)
      << longer.err;
  EXPECT_EQ(w.hone(sft + " --warmup_steps 3 --save_dir b").err.find("warm-up"), std::string::npos);
}

// qwen2's folder with the head of its own (the embedding's rows times 1.5, in fp32) in the file,
// although config.json ties it, and every name behind `prefix`.
std::string with_own_head(const Workplace& w, const std::string& prefix) {
  const std::string model = w.model("qwen2");
  const fs::path path = w / model / "model.safetensors";
  std::vector<io::TensorDecl> decls;
  std::vector<std::vector<float>> values;
  {
    const auto file = io::SafetensorsFile::open(path);
    for (const io::TensorEntry& t : file.tensors()) {
      decls.push_back({prefix + t.name, io::FileType::f32, t.shape});
      io::read_as_float(t, 0, values.emplace_back(static_cast<size_t>(t.elements())));
      if (t.name != "model.embed_tokens.weight") continue;
      decls.push_back({prefix + "lm_head.weight", io::FileType::f32, t.shape});
      std::vector<float> head = values.back();
      for (float& v : head) v *= 1.5f;
      values.push_back(head);
    }
  }
  fs::remove(path);
  io::SafetensorsWriter writer(path, decls);
  for (size_t i = 0; i < decls.size(); ++i)
    writer.write(decls[i].name, std::as_bytes(std::span(values[i])));
  writer.finish();
  return model;
}

TEST(Models, AHeadOfItsOwnIsUsedAndSaved) {
  const Workplace w;
  w.file("t.jsonl", "[1, 2, 3, 4, 5, 6, 7, 8, 9]\n");
  const auto logits = [&](const std::string& use, const std::string& out) {
    const Result r =
        w.hone("logits --pretrained " + use + " --dtype fp32 --input t.jsonl --output " + out);
    EXPECT_EQ(r.code, 0) << r.err;
    return tensor(w / out, "0");
  };
  std::vector<double> expected;
  {
    const std::string plain = w.model("qwen2");
    ASSERT_TRUE(
        Json::parse(read_file(w / plain / "config.json")).at("tie_word_embeddings").get<bool>());
    expected = logits(plain, "p.safetensors");
    for (double& v : expected) v *= 1.5;
    fs::remove_all(w / plain);
  }
  const std::string model = with_own_head(w, "module.");
  EXPECT_LT(error(logits(model, "h.safetensors"), expected), 1e-6);
  const Result said =
      w.hone("logits --pretrained " + model + " --input t.jsonl --output x.safetensors");
  EXPECT_NE(said.err.find("lm_head.weight that differs"), std::string::npos) << said.err;
  EXPECT_NE(said.err.find("is read as"), std::string::npos) << said.err;

  // What is made of it has plain names and a config that says so.
  w.file("d.jsonl", counting_data(8, vocab_of(w, model), 3));
  const std::string sft =
      "sft --pretrained " + model + " --dataset d.jsonl --dtype fp32 --max_steps 1 --lr 1e-9 ";
  ASSERT_EQ(w.hone(sft + "--save_dir full").code, 0);
  ASSERT_EQ(w.hone(sft + "--lora_rank 2 --save_dir lora").code, 0);
  const Result m = w.hone("merge --pretrained " + model + " --adapter lora --output merged");
  ASSERT_EQ(m.code, 0) << m.err;
  for (const char* made : {"full", "merged"}) {
    EXPECT_EQ(Json::parse(read_file(w / made / "config.json")).at("tie_word_embeddings"), false);
    const auto file = io::SafetensorsFile::open(w / made / "model.safetensors");
    EXPECT_NE(file.find("lm_head.weight"), nullptr);
    EXPECT_NE(file.find("model.norm.weight"), nullptr);
    // A step at a rate of 1e-9 moves weights below their rounding.
    EXPECT_LT(error(logits(made, std::string(made) + ".safetensors"), expected), 1e-5);
    EXPECT_EQ(w.hone(std::string("logits --pretrained ") + made +
                     " --input t.jsonl --output x.safetensors")
                  .err.find("lm_head"),
              std::string::npos);
  }
}

TEST(Merge, AddsTheGoldenAdapter) {
  const Workplace w;
  const Golden golden("qwen2");
  const fs::path base = golden.folder();
  for (const char* adapter : {"lora", "rslora"}) {
    const std::string out = std::string("merged-") + adapter;
    const Result m = w.hone("merge --pretrained '" + base.string() + "' --adapter '" +
                            (base / adapter).string() + "' --output " + out);
    ASSERT_EQ(m.code, 0) << m.err;
    w.file("t.jsonl", tokens_text(golden.tokens("seq.2.tokens")) + "\n");
    ASSERT_EQ(w.hone("logits --pretrained " + out + " --input t.jsonl --output l.safetensors").code,
              0);
    EXPECT_LT(error(tensor(w / "l.safetensors", "0"),
                    golden.values(std::string(adapter) + ".seq.2.logits")),
              1e-5);
  }
}

// Runs hone and sends the signal once `line` shows on its stderr; returns the exit code.
int run_and_signal(const Workplace& w, std::vector<std::string> args, const std::string& line,
                   int signal) {
  int ends[2];
  if (::pipe(ends) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    if (::chdir((w / "").c_str()) != 0) ::_exit(99);
    std::vector<char*> argv;
    std::string name = HONE_BINARY;
    argv.push_back(name.data());
    for (std::string& a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    ::execv(HONE_BINARY, argv.data());
    ::_exit(99);
  }
  ::close(ends[1]);
  std::string seen;
  bool sent = false;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof(buffer))) > 0;) {
    seen.append(buffer, static_cast<size_t>(n));
    if (!sent && seen.find(line) != std::string::npos) {
      ::kill(child, signal);
      sent = true;
    }
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(sent) << seen;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(Sft, CtrlCSavesAndResumingGivesTheSameAdapter) {
  const Workplace w;
  const std::string model = w.model("llama3");
  w.file("d.jsonl", counting_data(600, vocab_of(w, model), 4));
  const std::vector<std::string> common = {
      "sft", "--pretrained", model, "--dataset", "d.jsonl", "--lora_rank",  "4", "--lora_dropout",
      "0.1", "--batch_size", "4",   "--lr",      "1e-3",    "--save_steps", "40"};
  const auto into = [&](const std::string& folder) {
    std::vector<std::string> args = common;
    args.insert(args.end(), {"--save_dir", folder});
    return args;
  };
  const auto text = [](const std::vector<std::string>& args) {
    std::string s;
    for (const std::string& a : args) s += a + " ";
    return s;
  };
  ASSERT_EQ(w.hone(text(into("whole"))).code, 0);
  for (const auto& [signal, code] : {std::pair{SIGINT, 130}, std::pair{SIGTERM, 143}}) {
    const std::string folder = "cut" + std::to_string(signal);
    EXPECT_EQ(run_and_signal(w, into(folder), "step 1/150", signal), code);
    ASSERT_FALSE(fs::exists(w / folder / "adapter_model.safetensors"));
    ASSERT_LT(read_lines(w / folder / "metrics.jsonl").size(), 150U);
    const Result r = w.hone(text(into(folder)) + "--resume auto");
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_NE(r.err.find("resumed from"), std::string::npos) << r.err;
    EXPECT_EQ(read_file(w / folder / "adapter_model.safetensors"),
              read_file(w / "whole" / "adapter_model.safetensors"));
    const auto a = read_lines(w / folder / "metrics.jsonl"),
               b = read_lines(w / "whole" / "metrics.jsonl");
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].at("loss"), b[i].at("loss")) << i;
  }
}

TEST(Output, ClosedAndFullPipes) {
  const Workplace w;
  const std::string model = w.model("qwen2");
  w.file("p.jsonl", "{\"tokens\": [1]}\n");
  const std::string run = "cd '" + (w / "").string() + "' && '" + HONE_BINARY +
                          "' generate --pretrained " + model +
                          " --input p.jsonl --num_samples 400 --max_new_tokens 3 2> err";
  const std::string closed = "bash -c \"set -o pipefail; " + run + " | head -n 1 > /dev/null\"";
  EXPECT_EQ(WEXITSTATUS(std::system(closed.c_str())), 0) << read_file(w / "err");
  if (fs::exists("/dev/full")) {
    EXPECT_EQ(WEXITSTATUS(std::system((run + " > /dev/full").c_str())), 1);
    EXPECT_NE(read_file(w / "err").find("error: [output]"), std::string::npos);
  }
}

TEST(Init, IsAFunctionOfTheSeed) {
  const Workplace w;
  w.model("qwen2");
  const std::string make = "init --config qwen2/config.json --seed ";
  for (const char* rest :
       {"1 --output a", "1 --output b", "2 --output c", "1 --output d --dtype bf16"})
    ASSERT_EQ(w.hone(make + rest).code, 0);
  EXPECT_EQ(read_file(w / "a" / "model.safetensors"), read_file(w / "b" / "model.safetensors"));
  EXPECT_NE(read_file(w / "a" / "model.safetensors"), read_file(w / "c" / "model.safetensors"));
  const Json config = Json::parse(read_file(w / "d" / "config.json"));
  EXPECT_EQ(config.value("dtype", config.value("torch_dtype", "")), "bfloat16");
  const auto file = io::SafetensorsFile::open(w / "a" / "model.safetensors");
  for (const io::TensorEntry& t : file.tensors()) {
    std::vector<float> v(static_cast<size_t>(t.elements()));
    io::read_as_float(t, 0, v);
    if (t.shape.size() == 1) {
      const float all = t.name.ends_with(".bias") ? 0.0f : 1.0f;
      for (const float x : v) ASSERT_EQ(x, all) << t.name;
      continue;
    }
    double sum = 0;
    for (const float x : v) sum += static_cast<double>(x) * static_cast<double>(x);
    const double n = static_cast<double>(v.size());
    const double range = config.value("initializer_range", 0.02);
    // Five standard errors of the standard deviation of n normal numbers.
    EXPECT_NEAR(std::sqrt(sum / n), range, 5 * range / std::sqrt(2 * n)) << t.name;
  }
  EXPECT_EQ(w.hone(make + "1 --output a").code, 2);
  const Result small = w.hone("init --config qwen2/config.json --tokenizer qwen2 --output e");
  EXPECT_EQ(small.code, 2);
  EXPECT_NE(small.err.find("too small for the tokenizer"), std::string::npos) << small.err;
}

}  // namespace
}  // namespace hone::test
