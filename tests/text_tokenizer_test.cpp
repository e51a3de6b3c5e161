// Tokenizers against golden ids, and the properties the rest relies on: ranges, decoding, threads.
#include "text/tokenizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "text_test_util.h"

namespace hone {
namespace {

using text_test::assets;
using text_test::own_tokenizer;
using text_test::read_file;
using text_test::read_gz;

const Tokenizer& qwen25() {
  static const Tokenizer tokenizer =
      Tokenizer::from_json(read_gz(assets() + "/tok-qwen/qwen2.5.tokenizer.json.gz"),
                           read_file(assets() + "/tok-qwen/qwen2.5.tokenizer_config.json"));
  return tokenizer;
}
const Tokenizer& qwen3() {
  static const Tokenizer tokenizer =
      Tokenizer::from_json(read_gz(assets() + "/tok-qwen/qwen3.tokenizer.json.gz"),
                           read_file(assets() + "/tok-qwen/qwen3.tokenizer_config.json"));
  return tokenizer;
}
const Tokenizer& gpt2() {
  static const Tokenizer tokenizer = Tokenizer::load(assets() + "/tok-gpt2");
  return tokenizer;
}
const Tokenizer& stories() {
  static const Tokenizer tokenizer = Tokenizer::load(assets() + "/model-stories260k");
  return tokenizer;
}

// Our own, one made as Qwen's are and one as Llama's.
const Tokenizer& byte_level() {
  static const Tokenizer tokenizer = [] {
    const nlohmann::json file = own_tokenizer("byte_level");
    return Tokenizer::from_json(file["tokenizer"].dump(), file["config"].dump());
  }();
  return tokenizer;
}
const Tokenizer& fallback() {
  static const Tokenizer tokenizer = [] {
    const nlohmann::json file = own_tokenizer("fallback");
    return Tokenizer::from_json(file["tokenizer"].dump(), file["config"].dump());
  }();
  return tokenizer;
}
// byte_level(), but it rewrites nothing, as GPT-2's.
const Tokenizer& unchanging() {
  static const Tokenizer tokenizer = [] {
    nlohmann::json file = own_tokenizer("byte_level");
    file["tokenizer"]["normalizer"] = nullptr;
    return Tokenizer::from_json(file["tokenizer"].dump(), file["config"].dump());
  }();
  return tokenizer;
}

std::vector<std::string> texts_of(const std::string& path) {
  std::vector<std::string> texts = text_test::split(read_file(path), "\n__ggml_vocab_test__\n");
  return texts;
}

void expect_goldens(const Tokenizer& tokenizer, const std::string& stem) {
  const std::vector<std::string> texts = texts_of(stem + ".inp");
  const std::vector<std::string> lines = text_test::split(read_file(stem + ".out"), "\n");
  ASSERT_GE(lines.size(), texts.size());
  ASSERT_EQ(texts.size(), 47u);
  for (size_t i = 0; i < texts.size(); i++) {
    std::istringstream numbers(lines[i]);
    std::vector<int32_t> want;
    for (int32_t id; numbers >> id;) want.push_back(id);
    EXPECT_EQ(tokenizer.encode(texts[i]), want) << "text " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer.decode(want), texts[i]);
  }
}

TEST(Tokenizer, GoldenIds) {
  for (const char* name : {"byte_level", "fallback"}) {
    const Tokenizer& tokenizer = std::string(name) == "fallback" ? fallback() : byte_level();
    const nlohmann::json cases = own_tokenizer(name)["cases"];
    ASSERT_GE(cases.size(), 12u);
    for (const nlohmann::json& c : cases) {
      const auto text = c["text"].get<std::string>();
      const auto ids = c["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer.encode(text), ids) << name << ": " << text;
      EXPECT_EQ(tokenizer.encode(text, true), c["with_special"].get<std::vector<int32_t>>())
          << name << ": " << text;
      EXPECT_EQ(tokenizer.decode(ids), c["decoded"].get<std::string>()) << name << ": " << text;
    }
  }
}

TEST(Tokenizer, GoldenIdsOfPublishedOnes) {
  HONE_NEEDS_ASSETS();
  expect_goldens(qwen25(), assets() + "/tok-qwen/qwen2");
  expect_goldens(qwen3(), assets() + "/tok-qwen/qwen2");
  expect_goldens(qwen3(), assets() + "/tok-qwen/deepseek-r1-qwen");
  expect_goldens(gpt2(), assets() + "/tok-gpt2/gpt-2");
}

// The ids of the published greedy output of stories260k read back to text and encode again.
TEST(Tokenizer, Stories) {
  HONE_NEEDS_ASSETS();
  const Tokenizer& tokenizer = stories();
  EXPECT_EQ(tokenizer.vocab_size(), 512);
  EXPECT_EQ(tokenizer.max_id(), 511);
  EXPECT_EQ(tokenizer.bos_token(), "<s>");
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.unk_id(), 0);
  EXPECT_EQ(tokenizer.pad_id(), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(1));
  EXPECT_FALSE(tokenizer.is_special(403));
  const auto golden =
      nlohmann::json::parse(read_file(assets() + "/model-stories260k/golden_greedy.json"));
  for (const auto& item : golden["cases"]) {
    const auto want = item["prompt_ids"].get<std::vector<int32_t>>();
    const auto prompt = item["prompt"].get<std::string>();
    EXPECT_EQ(tokenizer.encode(prompt, /*add_special_tokens=*/true), want);
    const std::vector<int32_t> bare(want.begin() + 1, want.end());
    EXPECT_EQ(tokenizer.encode(prompt), bare);
    EXPECT_EQ(tokenizer.decode(want, /*skip_special_tokens=*/true), prompt);
    const Encoding encoding = tokenizer.encode_with_ranges(prompt, true);
    EXPECT_EQ(encoding.ids, want);
    if (!prompt.empty()) {
      EXPECT_EQ(encoding.ranges[0], (ByteRange{0, 0}));
      EXPECT_EQ(encoding.ranges[1].begin, 0);
      EXPECT_EQ(encoding.ranges.back().end, static_cast<int64_t>(prompt.size()));
    }
  }
}

TEST(Tokenizer, SpecialTokensOfPublishedOnes) {
  HONE_NEEDS_ASSETS();
  EXPECT_EQ(qwen25().eos_token(), "<|im_end|>");
  EXPECT_EQ(qwen25().eos_id(), 151645);
  EXPECT_EQ(qwen25().pad_id(), 151643);
  EXPECT_EQ(qwen25().bos_token(), std::nullopt);  // null in the config
  EXPECT_EQ(qwen25().vocab_size(), 151665);
  EXPECT_EQ(qwen25().max_id(), 151664);
  EXPECT_EQ(qwen3().id_of("<think>"), 151667);
  EXPECT_FALSE(qwen3().is_special(151667));
  EXPECT_TRUE(qwen3().is_added(151667));
  EXPECT_TRUE(qwen3().is_special(151645));
  EXPECT_EQ(qwen3().token_of(151645), "<|im_end|>");
  EXPECT_EQ(qwen3().token_of(-1), std::nullopt);
  EXPECT_EQ(qwen3().token_of(1 << 30), std::nullopt);
  EXPECT_EQ(qwen3().token_bytes(1 << 30), "");
  EXPECT_EQ(gpt2().bos_id(), 50256);
  EXPECT_EQ(gpt2().unk_id(), 50256);
}

// Forms of the config: objects, special_tokens_map.json, tokens the tokenizer lacks, the class.
TEST(Tokenizer, SpecialTokensAreResolved) {
  EXPECT_EQ(byte_level().eos_id(), byte_level().id_of("<|im_end|>"));
  EXPECT_EQ(byte_level().pad_id(), byte_level().id_of("<|endoftext|>"));
  EXPECT_EQ(byte_level().bos_token(), std::nullopt);  // null in the config
  const std::string json = own_tokenizer("fallback")["tokenizer"].dump();
  const Tokenizer objects = Tokenizer::from_json(
      json, R"({"bos_token": {"content": "<s>", "lstrip": false}, "pad_token": "<pad>",
                "additional_special_tokens": ["<|x|>"], "add_bos_token": true,
                "add_eos_token": true, "eos_token": "</s>"})");
  EXPECT_EQ(objects.bos_id(), 1);
  EXPECT_EQ(objects.pad_id(), 400);
  EXPECT_EQ(objects.id_of("<|x|>"), 401);
  EXPECT_TRUE(objects.is_special(401));
  EXPECT_EQ(objects.encode("<pad><|x|>", true), (std::vector<int32_t>{1, 400, 401, 2}));
  const Tokenizer map =
      Tokenizer::from_json(json, R"({"eos_token": "x"})", R"({"eos_token": {"content": "</s>"}})");
  EXPECT_EQ(map.eos_id(), 2);
  EXPECT_EQ(map.bos_token(), std::nullopt);
  const Tokenizer of_class = Tokenizer::from_json(
      json, R"({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": false})");
  EXPECT_EQ(of_class.bos_token(), "<s>");
  EXPECT_EQ(of_class.encode("a", true), of_class.encode("a", false));
}

// Text that cuts characters into bytes, composes, decomposes, and spells out special tokens.
std::string random_text(std::mt19937& random, const std::vector<std::string>& more) {
  static const std::vector<std::string> pieces = {"hello",
                                                  " world",
                                                  "\n",
                                                  "  ",
                                                  "\t",
                                                  "\r\n",
                                                  "12345",
                                                  "don't",
                                                  "é",
                                                  "e\xCC\x81",
                                                  "\xCC\x81",
                                                  "日本語",
                                                  "👍🏽",
                                                  "👨‍👩‍👧",
                                                  "ạ̈",
                                                  "\xC2\xA0",
                                                  "\xE2\x80\x8B",
                                                  "각",
                                                  "\xE1\x84\x80\xE1\x85\xA1",
                                                  "ﬁ",
                                                  "½",
                                                  "!?",
                                                  "<|",
                                                  "|>",
                                                  "the",
                                                  "ing",
                                                  "\x01",
                                                  "क्ष",
                                                  "العربية",
                                                  "<0x41>",
                                                  "\xEF\xBB\xBF"};
  std::string text;
  for (int n = static_cast<int>(random() % 20); n > 0; n--) {
    const size_t i = random() % (pieces.size() + more.size());
    text += i < pieces.size() ? pieces[i] : more[i - pieces.size()];
  }
  return text;
}

// Every range has the bytes of its token, none goes back, nothing is left out.
void expect_ranges(const Tokenizer& tokenizer, int least_exact) {
  std::mt19937 random(7);
  const std::vector<std::string> special = {tokenizer.eos_token().value()};
  int exact = 0;
  for (int trial = 0; trial < 400; trial++) {
    const std::string text = random_text(random, special);
    const Encoding encoding = tokenizer.encode_with_ranges(text);
    EXPECT_EQ(encoding.ids, tokenizer.encode(text));
    ASSERT_EQ(encoding.ids.size(), encoding.ranges.size());
    std::string made;
    for (const int32_t id : encoding.ids) made += tokenizer.token_bytes(id);
    int64_t at = 0;
    for (size_t t = 0; t < encoding.ids.size(); t++) {
      const ByteRange& r = encoding.ranges[t];
      ASSERT_LE(0, r.begin);
      ASSERT_LE(r.begin, r.end);
      ASSERT_LE(r.end, static_cast<int64_t>(text.size()));
      ASSERT_LE(at, r.end) << text;  // nothing goes back, nothing is left out
      at = r.end;
      if (made == text) {
        EXPECT_EQ(text.substr(r.begin, r.end - r.begin), tokenizer.token_bytes(encoding.ids[t]));
      }
    }
    if (made == text) {
      exact++;
      EXPECT_EQ(at, static_cast<int64_t>(text.size()));
    }
  }
  EXPECT_GE(exact, least_exact);
}

// GPT-2's kind rewrites nothing; Qwen's composes; Llama's puts a space in front.
TEST(Tokenizer, RangesTellTheBytesOfTokens) {
  expect_ranges(byte_level(), 100);
  expect_ranges(unchanging(), 400);
  expect_ranges(fallback(), 0);
}

TEST(Tokenizer, RangesOfPublishedOnes) {
  HONE_NEEDS_ASSETS();
  expect_ranges(qwen25(), 100);
  expect_ranges(gpt2(), 400);
  expect_ranges(stories(), 0);
}

TEST(Tokenizer, RangesOfRewrittenText) {
  // NFC: e + U+0301 becomes one character, of two bytes instead of three.
  const std::string text =
      "caf"
      "e\xCC\x81"
      " au lait";
  const Encoding encoding = byte_level().encode_with_ranges(text);
  int64_t end = 0;
  for (const ByteRange& r : encoding.ranges) {
    // No token may claim a part of the rewritten character.
    for (const int64_t edge : {r.begin, r.end}) EXPECT_FALSE(edge > 3 && edge < 6) << edge;
    end = r.end;
  }
  EXPECT_EQ(end, static_cast<int64_t>(text.size()));
  // The space that Llama's tokenizers put in front stands for no byte.
  const Encoding story = fallback().encode_with_ranges("  a");
  EXPECT_EQ(story.ranges.front().begin, 0);
  EXPECT_EQ(story.ranges.back().end, 3);
}

TEST(Tokenizer, DecodeGivesTheTextBack) {
  std::mt19937 random(8);
  for (int trial = 0; trial < 300; trial++) {
    const std::string text = random_text(random, {"<|endoftext|>"});
    EXPECT_EQ(unchanging().decode(unchanging().encode(text)), text);
  }
  const Tokenizer& t = byte_level();
  const std::vector<int32_t> half = {t.encode("𓧌")[0]};
  const std::vector<int32_t> end = {*t.id_of("<|im_end|>")};
  EXPECT_EQ(t.decode(half), "\xEF\xBF\xBD");
  EXPECT_EQ(t.decode(end, true), "");
  EXPECT_EQ(t.decode(end), "<|im_end|>");
  EXPECT_EQ(t.decode({}), "");
  EXPECT_THROW(t.decode(std::vector<int32_t>{-1}), UserError);
  EXPECT_THROW(t.decode(std::vector<int32_t>{200000}), UserError);
}

TEST(Tokenizer, ManyThreadsAgree) {
  std::mt19937 random(9);
  const Tokenizer& tokenizer = byte_level();
  std::vector<std::string> texts;
  for (int i = 0; i < 200; i++) texts.push_back(random_text(random, {"<|im_end|>"}));
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const auto want = tokenizer.encode_batch(views);
  for (size_t i = 0; i < texts.size(); i++) EXPECT_EQ(want[i], tokenizer.encode(texts[i]));
  std::vector<int> same(4, 0);
  std::vector<std::thread> threads;
  for (int& result : same) {
    threads.emplace_back([&] { result = tokenizer.encode_batch(views) == want ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(same, (std::vector<int>{1, 1, 1, 1}));
}

// In the fast engine and in the one that serves where it refuses.
TEST(Tokenizer, PaddingAndTruncationAreOff) {
  for (const char* name : {"fallback", "missing_bytes"}) {
    auto json = own_tokenizer(name)["tokenizer"];
    const Tokenizer plain = Tokenizer::from_json(json.dump());
    json["truncation"] = {
        {"direction", "Right"}, {"max_length", 3}, {"strategy", "LongestFirst"}, {"stride", 0}};
    json["padding"] = {{"strategy", {{"Fixed", 64}}},
                       {"direction", "Right"},
                       {"pad_to_multiple_of", nullptr},
                       {"pad_id", 0},
                       {"pad_type_id", 0},
                       {"pad_token", json["added_tokens"][0]["content"]}};
    const Tokenizer tokenizer = Tokenizer::from_json(json.dump());
    const std::string text = "Once upon a time, there was a little girl";
    EXPECT_GT(plain.encode(text, true).size(), 3u);
    EXPECT_EQ(tokenizer.encode(text, true), plain.encode(text, true)) << name;
  }
}

TEST(Tokenizer, BadFilesAreUserErrors) {
  const text_test::TempFolder folder;
  EXPECT_THROW(Tokenizer::load(folder.path()), UserError);
  EXPECT_THROW(Tokenizer::load("/no/such/folder"), UserError);
  for (const char* bad :
       {"", "{", "[]", "null", "{}", R"({"model": {}})", R"({"model": {"type": "BPE"}})",
        R"({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})",
        R"({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}})",
        R"({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})",
        R"({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [3]}})",
        R"({"version": "1.0", "model": {"type": "nope", "vocab": {"a": 0}}})",
        R"({"version": "1.0", "added_tokens": [{"content": "x"}],
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})",
        R"({"version": "1.0", "added_tokens": [{"content": "x", "id": 4294967290}],
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})",
        R"({"version": "1.0", "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(("},
            "behavior": "Isolated", "invert": false},
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})",
        "\xFF\xFE"}) {
    folder.write("tokenizer.json", bad);
    EXPECT_THROW(Tokenizer::load(folder.path()).encode("a b"), UserError) << bad;
  }
  folder.write("tokenizer.json", std::string(100000, '['));
  EXPECT_THROW(Tokenizer::load(folder.path()), UserError);
  folder.write("tokenizer.json", own_tokenizer("fallback")["tokenizer"].dump());
  for (const char* bad : {"{", R"({"added_tokens_decoder": {"x": {"content": "y"}}})"}) {
    folder.write("tokenizer_config.json", bad);
    EXPECT_THROW(Tokenizer::load(folder.path()), UserError) << bad;
  }
  folder.write("tokenizer_config.json", "{}");
  EXPECT_THROW(Tokenizer::load(folder.path()).encode("\xC3("), UserError);
  EXPECT_EQ(Tokenizer::load(folder.path()).encode(""), std::vector<int32_t>{});
}

TEST(BpeTrainer, TrainsATokenizerThatReadsBack) {
  std::vector<std::string> texts;
  for (int i = 0; i < 200; i++) {
    texts.push_back(fmt::format("Tom has {} apples and buys {} more. How many apples? {} apples.",
                                i, i + 1, 2 * i + 1));
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  BpeTrainerOptions options;
  options.vocab_size = 280;
  options.special_tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  const std::string json = train_bpe(views, options);
  EXPECT_EQ(json, train_bpe(views, options));
  const Tokenizer tokenizer = Tokenizer::from_json(json);
  EXPECT_EQ(tokenizer.vocab_size(), 280);
  EXPECT_EQ(tokenizer.max_id(), 279);
  EXPECT_EQ(tokenizer.id_of("<|im_end|>"), 2);
  EXPECT_TRUE(tokenizer.is_special(2));
  // " apples" is frequent enough to be one token; digits stay apart; every byte has a token.
  EXPECT_EQ(tokenizer.encode(" apples").size(), 1u);
  EXPECT_EQ(tokenizer.encode("123").size(), 3u);
  for (const std::string text : {"Tom has 12 apples.<|im_end|>", "日本 é \x01\n\n  x", ""}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
  options.vocab_size = 258;
  EXPECT_THROW(train_bpe(views, options), UserError);
  options.vocab_size = 259;
  EXPECT_EQ(Tokenizer::from_json(train_bpe({}, options)).vocab_size(), 259);
}

// A byte-level vocabulary without all 256 bytes: the fast engine refuses it, transformers reads it.
TEST(Tokenizer, FilesThatTheFastEngineRefusesAreRead) {
  using Json = nlohmann::json;
  const Json fixture = own_tokenizer("missing_bytes");
  const Tokenizer tokenizer = Tokenizer::from_json(fixture.at("tokenizer").dump());
  size_t compared = 0;
  for (const Json& c : fixture.at("cases")) {
    const auto text = c.at("text").get<std::string>();
    const auto want = c.at("ids").get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(text), want) << text;
    EXPECT_EQ(tokenizer.decode(want), c.at("decoded").get<std::string>());
    // Ranges hold what the tokens stand for, and what has no token belongs to none.
    const Encoding encoding = tokenizer.encode_with_ranges(text);
    ASSERT_EQ(encoding.ids, want);
    for (size_t t = 0; t < want.size(); t++) {
      const ByteRange r = encoding.ranges[t];
      EXPECT_NE(text.substr(static_cast<size_t>(r.begin), static_cast<size_t>(r.end - r.begin))
                    .find(tokenizer.token_bytes(want[t])),
                std::string::npos)
          << text << " token " << t;
    }
    compared++;
  }
  EXPECT_GE(compared, 7u);
  EXPECT_TRUE(tokenizer.is_special(*tokenizer.id_of("<|im_end|>")));
}

}  // namespace
}  // namespace hone
