// Rollout equals training: the log-probs that generation reports are, bit for bit, those that
// scoring gives for the same tokens; and samples don't depend on the batch, the prefill budget or
// threads. On every instruction path, in bf16 and fp32.
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "backend/cpu/cpu.h"
#include "core/rng.h"
#include "io/files.h"
#include "load/model.h"
#include "rollout/generate.h"
#include "support/golden.h"
#include "text/tokenizer.h"
#include "train/pass.h"

namespace hone {
namespace {

using rollout::Completion;
using rollout::Prompt;
using rollout::SamplingOptions;

std::vector<Completion> run(load::Model& model, const std::vector<Prompt>& prompts,
                            const SamplingOptions& options) {
  Context ctx = model.context();
  std::vector<Completion> all;
  rollout::generate(ctx, model.decoder(), prompts, options,
                    [&](const Completion& c) { all.push_back(c); });
  return all;
}

// Log-probs of every token but the first of each sequence, scored together in streams of at most
// `budget` tokens.
std::vector<std::vector<float>> score_all(load::Model& model,
                                          const std::vector<std::vector<int32_t>>& sequences,
                                          int64_t budget) {
  std::vector<data::Sample> samples;
  for (const auto& tokens : sequences) {
    data::Sample s;
    s.tokens = tokens;
    s.trained.assign(tokens.size(), 1);
    s.trained[0] = 0;
    s.trained_count = static_cast<int64_t>(tokens.size()) - 1;
    samples.push_back(s);
  }
  Context ctx = model.context();
  std::vector<std::vector<float>> out(sequences.size());
  for (size_t i = 0; i < out.size(); ++i) out[i].resize(sequences[i].size());
  for (const data::MicroBatch& mb :
       data::pack(samples, {.token_budget = budget, .targets = data::Targets::kAll})) {
    const auto lp = train::score(ctx, model.decoder(), mb);
    for (size_t r = 0; r < lp.size(); ++r) {
      const auto sample = static_cast<size_t>(mb.samples[static_cast<size_t>(mb.row_segments[r])]);
      out[sample][static_cast<size_t>(mb.row_positions[r])] = static_cast<float>(lp[r]);
    }
  }
  return out;
}

std::vector<Prompt> prompts_for(int64_t vocab) {
  std::vector<Prompt> prompts;
  for (const int n : {1, 3, 64, 7, 20, 65, 2, 130, 5, 33, 8, 9, 4, 17, 1, 40}) {
    Prompt p;
    p.key = prompts.size();
    for (int i = 0; i < n; ++i) {
      p.tokens.push_back(
          static_cast<int32_t>(random_words(3, Purpose::test, p.key, static_cast<uint64_t>(i))[0] %
                               static_cast<uint32_t>(vocab)));
    }
    prompts.push_back(p);
  }
  return prompts;
}

class RolloutTest : public testing::TestWithParam<cpu::Isa> {
 protected:
  void SetUp() override { setenv("HONE_ISA", std::string(cpu::isa_name(GetParam())).c_str(), 1); }
  void TearDown() override { unsetenv("HONE_ISA"); }
};

TEST_P(RolloutTest, LogprobsEqualScoresBitForBit) {
  for (const char* family : {"qwen2", "qwen3", "llama3", "qwen3_moe", "mixtral", "deepseek_v3"}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const test::Golden golden(family);
      std::vector<std::vector<int32_t>> first_tokens;
      std::vector<std::vector<float>> first_logprobs;
      for (const int threads : {1, 2}) {
        Machine machine({.threads = threads});
        load::Model model(machine, {.folder = golden.folder(), .dtype = dtype});
        model.load_adapter(golden.folder() / "lora", false);
        // as the file has the weights, and as generation copies them
        model.load(0, /*copy_weights=*/threads == 2);
        const std::vector<Prompt> prompts = prompts_for(model.config().vocab_size);
        for (const int batch : {1, 3, 16}) {
          SamplingOptions o;
          o.max_new_tokens = 20;
          o.ignore_eos = true;
          o.batch_size = batch;
          o.prefill_tokens = batch == 3 ? 16 : 2048;
          const std::vector<Completion> done = run(model, prompts, o);
          ASSERT_EQ(done.size(), prompts.size());
          std::vector<std::vector<int32_t>> sequences, drawn;
          std::vector<std::vector<float>> logprobs;
          for (const Completion& c : done) {
            sequences.push_back(prompts[c.prompt].tokens);
            sequences.back().insert(sequences.back().end(), c.tokens.begin(), c.tokens.end());
            drawn.push_back(c.tokens);
            logprobs.push_back(c.logprobs);
          }
          if (first_tokens.empty()) {
            first_tokens = drawn;
            first_logprobs = logprobs;
          }
          EXPECT_EQ(drawn, first_tokens) << family << " batch " << batch << " threads " << threads;
          EXPECT_EQ(logprobs, first_logprobs)
              << family << " batch " << batch << " threads " << threads;
          const auto scores = score_all(model, sequences, batch == 1 ? 1 : 300 * batch);
          for (size_t i = 0; i < sequences.size(); ++i) {
            const std::vector<float> tail(scores[i].end() - 20, scores[i].end());
            EXPECT_EQ(tail, logprobs[i])
                << family << " " << dtype_name(dtype) << " sequence " << i << " batch " << batch;
          }
        }
      }
    }
  }
}

// Prompts that begin alike share the keys of what they have in common; what is drawn is what each
// prompt alone gives.
TEST_P(RolloutTest, SharedPrefixesGiveTheSameBits) {
  const test::Golden golden("qwen3");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Machine machine({.threads = 2});
    load::Model model(machine, {.folder = golden.folder(), .dtype = dtype});
    model.load();
    const std::vector<Prompt> base = prompts_for(model.config().vocab_size);
    std::vector<Prompt> prompts;
    for (const int common : {24, 130, 64, 24, 70, 130, 24, 1}) {
      Prompt p{{base[7].tokens.begin(), base[7].tokens.begin() + common}, prompts.size()};
      const Prompt& own = base[prompts.size() % 5 + 9];
      if (common != 130) p.tokens.insert(p.tokens.end(), own.tokens.begin(), own.tokens.end());
      prompts.push_back(p);
    }
    SamplingOptions o;
    o.max_new_tokens = 40;
    o.num_samples = 3;
    o.stop_ids = {3, 5, 8, 13, 21, 34};  // so that sequences end at different times
    std::vector<Completion> alone;
    for (const Prompt& p : prompts) {
      SamplingOptions each = o;
      each.batch_size = 1;
      for (Completion& c : run(model, {p}, each)) alone.push_back(c);
    }
    for (const int batch : {1, 2, 5, 24}) {
      o.batch_size = batch;
      o.prefill_tokens = batch == 5 ? 16 : 2048;
      const std::vector<Completion> done = run(model, prompts, o);
      ASSERT_EQ(done.size(), alone.size());
      for (size_t i = 0; i < done.size(); ++i) {
        EXPECT_EQ(done[i].tokens, alone[i].tokens) << i << " batch " << batch;
        EXPECT_EQ(done[i].logprobs, alone[i].logprobs) << i << " batch " << batch;
      }
    }
  }
}

class Work : public Observer {
 public:
  void before(KernelId, const char*, const Cost& cost) override { flops += cost.flops; }
  void after() override {}
  double flops = 0;
};

// A generator reads of a conversation's next turn only what is new, with the bits of reading it
// all; also after an interruption, and when its cache has become too small.
TEST_P(RolloutTest, ConversationsGoOnWhereTheyWere) {
  const test::Golden golden("llama3");
  Machine machine({.threads = 2});
  load::Model model(machine, {.folder = golden.folder(), .dtype = DType::bf16});
  model.load();
  SamplingOptions o;
  o.max_new_tokens = 30;
  o.ignore_eos = true;
  Work work, fresh_work;
  Context ctx = model.context();
  ctx.observer = &work;
  rollout::Generator generator(ctx, model.decoder());
  std::vector<Prompt> turn = {prompts_for(model.config().vocab_size)[7]};
  for (int i = 0; i < 5; ++i) {
    if (i == 2) {
      const auto stop = [](int32_t) { throw std::runtime_error("stop"); };
      EXPECT_THROW(generator.run(
                       turn, o, [](const Completion&) {}, stop),
                   std::runtime_error);
    }
    work.flops = fresh_work.flops = 0;
    Completion got, want;
    generator.run(turn, o, [&](const Completion& c) { got = c; });
    Context fresh = model.context();
    fresh.observer = &fresh_work;
    rollout::generate(fresh, model.decoder(), turn, o, [&](const Completion& c) { want = c; });
    EXPECT_EQ(got.tokens, want.tokens) << "turn " << i;
    EXPECT_EQ(got.logprobs, want.logprobs) << "turn " << i;
    // the caches of turns 0, 1, 2 (after the interruption) and 3 are new ones
    if (i == 4) {
      EXPECT_LT(work.flops, 0.4 * fresh_work.flops);
    }
    Prompt next{turn[0].tokens, turn[0].key + 1};
    next.tokens.insert(next.tokens.end(), got.tokens.begin(), got.tokens.end());
    next.tokens.insert(next.tokens.end(), {5, 6, 7});
    turn[0] = next;
  }
}

// Keys of weights that have changed since are not used: the answers are those of a new generator.
TEST_P(RolloutTest, KeysOfChangedWeightsAreNotUsed) {
  const test::Golden golden("llama3");
  Machine machine({.threads = 2});
  load::Model model(machine, {.folder = golden.folder(), .dtype = DType::f32});
  for (ParamId id = 0; id < model.params().count(); ++id) model.params().set_trainable(id, true);
  model.load();
  SamplingOptions o;
  o.max_new_tokens = 8;
  o.ignore_eos = true;
  Context ctx = model.context();
  rollout::Generator generator(ctx, model.decoder());
  const std::vector<Prompt> prompt = {prompts_for(model.config().vocab_size)[7]};
  Completion first, second, third, want;
  generator.run(prompt, o, [&](const Completion& c) { first = c; });
  generator.run(prompt, o, [&](const Completion& c) { second = c; });
  EXPECT_EQ(first.logprobs, second.logprobs);
  const ParamId k = model.params().find("model.layers.0.self_attn.k_proj.weight");
  const View v = model.params().value(k).view();
  for (int64_t i = 0; i < v.numel(); ++i) v.as<float>()[i] *= 1.5F;
  model.params().values_changed();
  generator.run(prompt, o, [&](const Completion& c) { third = c; });
  Context fresh = model.context();
  rollout::generate(fresh, model.decoder(), prompt, o, [&](const Completion& c) { want = c; });
  EXPECT_EQ(third.tokens, want.tokens);
  EXPECT_EQ(third.logprobs, want.logprobs);
  EXPECT_NE(third.logprobs, first.logprobs);
}

// A model whose weights fit Format::bf16t, in a folder of its own.
std::filesystem::path even_model(DType dtype) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() /
      ("hone_rollout_" + std::to_string(getpid()) + "_" + std::string(dtype_name(dtype)));
  std::filesystem::create_directories(folder);
  const std::string config =
      R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64,
"intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
"num_key_value_heads": 2, "vocab_size": 1104, "max_position_embeddings": 512,
"rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": true,
"hidden_act": "silu", "torch_dtype": ")" +
      std::string(dtype == DType::bf16 ? "bfloat16" : "float32") + "\"}";
  io::write_file_atomically(folder / "config.json", config);
  ParamStore store;
  const models::Decoder decoder(models::parse_model_config(config, "test"), store, Format::f32);
  std::vector<io::TensorDecl> tensors;
  for (ParamId id = 0; id < store.count(); ++id) {
    tensors.push_back({.name = store.spec(id).name,
                       .type = io::to_file_type(dtype),
                       .shape = store.spec(id).shape});
  }
  io::ModelWriter writer(folder, tensors);
  for (const io::TensorDecl& t : tensors) {
    int64_t n = 1;
    for (const int64_t e : t.shape) n *= e;
    std::vector<std::byte> bytes(static_cast<size_t>(n) * dtype_size(dtype));
    for (int64_t i = 0; i < n; ++i) {
      const auto w = random_words(11, Purpose::test, t.shape.size(), static_cast<uint64_t>(i));
      const auto v = static_cast<float>(t.shape.size() == 1 ? 1 : 0.1 * normal_double(w[0], w[1]));
      const bf16 rounded(v);
      // fp32 files hold bf16 numbers too, so that both give the same model
      const float same(rounded);
      std::memcpy(bytes.data() + static_cast<size_t>(i) * dtype_size(dtype),
                  dtype == DType::bf16 ? static_cast<const void*>(&rounded) : &same,
                  dtype_size(dtype));
    }
    writer.write(t.name, bytes);
  }
  writer.finish();
  return folder;
}

// Copied weights, packed or not, and weights from files of another type give the same bits.
TEST_P(RolloutTest, CopiedWeightsGiveTheSameBits) {
  std::vector<Completion> first;
  for (const DType file : {DType::bf16, DType::f32}) {
    const std::filesystem::path folder = even_model(file);
    for (const bool copy : {false, true}) {
      for (const int batch : {1, 5, 16, 32}) {
        Machine machine({.threads = 2});
        load::Model model(machine, {.folder = folder, .dtype = DType::bf16});
        model.load(0, copy);
        const ParamId down = model.params().find("model.layers.0.mlp.down_proj.weight");
        EXPECT_EQ(model.params().format(down),
                  copy ? cpu::compact_format(GetParam()) : Format::bf16);
        SamplingOptions o;
        o.max_new_tokens = 12;
        o.ignore_eos = true;
        o.batch_size = batch;
        o.num_samples = 2;
        const std::vector<Completion> done = run(model, prompts_for(model.config().vocab_size), o);
        if (first.empty()) first = done;
        ASSERT_EQ(done.size(), first.size());
        for (size_t i = 0; i < done.size(); ++i) {
          EXPECT_EQ(done[i].tokens, first[i].tokens) << i << " copy " << copy << " batch " << batch;
          EXPECT_EQ(done[i].logprobs, first[i].logprobs);
        }
      }
    }
    std::filesystem::remove_all(folder);
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, RolloutTest, testing::ValuesIn(test::paths()),
                         [](const auto& info) { return std::string(cpu::isa_name(info.param)); });

TEST(Rollout, GreedyContinuationOfTransformers) {
  for (const std::string& family : test::golden_families()) {
    const test::Golden golden(family);
    Machine machine({});
    load::Model model(machine, {.folder = golden.folder(), .dtype = DType::f32});
    model.load();
    SamplingOptions o;
    o.temperature = 0;
    o.ignore_eos = true;
    const std::vector<int32_t> want = golden.tokens("greedy.tokens");
    o.max_new_tokens = static_cast<int64_t>(want.size());
    const std::vector<Prompt> prompts = {{golden.tokens("seq.1.tokens"), 0}};
    EXPECT_EQ(run(model, prompts, o).at(0).tokens, want)
        << family << ", smallest gap of two logits " << golden.scalar("greedy.gap");
  }
}

TEST(Rollout, StoriesAsPublished) {
  const std::filesystem::path folder =
      std::filesystem::path(HONE_SOURCE_DIR) / "../shared/assets/model-stories260k";
  if (!std::filesystem::exists(folder / "golden_greedy.json"))
    GTEST_SKIP() << "needs ../shared/assets";
  const auto golden = nlohmann::json::parse(std::ifstream(folder / "golden_greedy.json"));
  Machine machine({});
  load::Model model(machine, {.folder = folder});
  model.load();
  const Tokenizer tokenizer = Tokenizer::load(folder.string());
  for (const auto& c : golden.at("cases")) {
    const auto prompt = c.at("prompt_ids").get<std::vector<int32_t>>();
    const auto all = c.at("greedy_ids").get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(c.at("prompt").get<std::string>(), true), prompt);
    SamplingOptions o;
    o.temperature = 0;
    o.ignore_eos = true;
    o.max_new_tokens = static_cast<int64_t>(all.size() - prompt.size());
    const std::vector<Prompt> prompts = {{prompt, 0}};
    const Completion done = run(model, prompts, o).at(0);
    EXPECT_EQ(done.tokens,
              std::vector<int32_t>(all.begin() + static_cast<int64_t>(prompt.size()), all.end()));
    const auto logprobs = c.at("logprobs_of_next").get<std::vector<double>>();
    for (size_t i = 0; i < done.logprobs.size(); ++i) {
      // The golden run is fp64 with six decimals; ours is fp32.
      EXPECT_NEAR(done.logprobs[i], logprobs.at(i + prompt.size() - 1), 2e-5) << "token " << i;
    }
  }
}

}  // namespace
}  // namespace hone
