// Preference records: every spelling to the same pair, what is left out, what is refused.
#include "data/pairs.h"
#include "data/record_json.h"

#include "data_test_util.h"

namespace hone::data {
namespace {

using data_test::message_of;
using data_test::TempFolder;

FormatRules pairs() { return {.format = DatasetFormat::kPairs}; }
Record pair_of(const std::string& json) {
  const Record record = interpret_record(parse_json_record(json), pairs());
  EXPECT_EQ(record.kind, Record::Kind::kPair);
  EXPECT_EQ(record.sides.size(), 2u);
  return record;
}
std::string fault_of(const std::string& json) {
  return message_of<RecordError>([&] { interpret_record(parse_json_record(json), pairs()); });
}

TEST(Pairs, TheSameConversationsInEverySpelling) {
  const Json chosen =
      Json::parse(R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A"}])");
  const Json rejected =
      Json::parse(R"([{"role":"user","content":"Q"},{"role":"assistant","content":"B"}])");
  for (
      const char* json : {
          R"({"prompt":[{"role":"user","content":"Q"}],"chosen":[{"role":"assistant","content":"A"}],"rejected":[{"role":"assistant","content":"B"}]})",
          R"({"chosen":[{"role":"user","content":"Q"},{"role":"assistant","content":"A"}],"rejected":[{"role":"user","content":"Q"},{"role":"assistant","content":"B"}]})",
          R"({"prompt":"Q","chosen":[{"role":"user","content":"Q"},{"role":"assistant","content":"A"}],"rejected":[{"role":"user","content":"Q"},{"role":"assistant","content":"B"}]})",
          R"({"context":[{"from":"human","content":"Q"}],"chosen":[{"from":"assistant","content":"A"}],"rejected":[{"from":"assistant","content":"B"}]})",
          R"({"conversations":[{"from":"human","value":"Q"}],"chosen":{"from":"gpt","value":"A"},"rejected":{"from":"gpt","value":"B"}})",
          R"({"instruction":"Q","input":"","chosen":"A","rejected":"B"})",
          R"({"messages":[{"role":"user","content":"Q"}],"chosen":"A","rejected":"B"})",
      }) {
    const Record record = pair_of(json);
    EXPECT_EQ(record.sides[0].conversation, chosen) << json;
    EXPECT_EQ(record.sides[1].conversation, rejected) << json;
    EXPECT_TRUE(record.unused.empty()) << json;
  }
  const Record with_system =
      pair_of(R"({"system":"S","prompt":"Q","chosen":"A","rejected":"B","margin":1})");
  EXPECT_EQ(with_system.sides[0].conversation[0]["content"], "S");
  EXPECT_EQ(with_system.sides[0].conversation.size(), 3u);
  EXPECT_EQ(with_system.unused, std::vector<std::string>{"margin"});
}

TEST(Pairs, TextsWithAndWithoutAPrompt) {
  const auto check = [](const std::string& json, const std::string& prompt, const std::string& a,
                        const std::string& b) {
    const Record r = pair_of(json);
    for (const Record& side : r.sides) EXPECT_EQ(side.prompt, prompt) << json;
    EXPECT_EQ(r.sides[0].completion, a);
    EXPECT_EQ(r.sides[1].completion, b);
  };
  check(R"({"prompt":"Q? ","chosen":"yes","rejected":"no"})", "Q? ", "yes", "no");
  // What both answers begin with stays in them where the text says where they begin.
  check(
      R"({"chosen":"\n\nHuman: Q\n\nAssistant: The one","rejected":"\n\nHuman: Q\n\nAssistant: The two"})",
      "\n\nHuman: Q\n\nAssistant:", " The one", " The two");
  // Else words are not split.
  check(R"({"chosen":"Q? The answer is 41","rejected":"Q? The answer is 42"})", "Q? The answer is",
        " 41", " 42");
  check(R"({"chosen":"same","rejected":"same"})", "", "same", "same");
  check(R"({"chosen":"ab c","rejected":"ab"})", "ab", " c", "");
}

TEST(Pairs, WhatIsRefused) {
  EXPECT_HAS(fault_of(R"({"prompt":"Q","chosen":"A"})"),
             "found the keys \"prompt\", \"chosen\"; expected a pair");
  EXPECT_HAS(fault_of(R"({"prompt":"Q","chosen":"A","rejected":null})"), "expected a pair");
  EXPECT_HAS(fault_of(R"(["Q"])"), "expected a pair");
  EXPECT_HAS(fault_of(R"({"prompt":"Q","chosen":"A","rejected":[]})"), "two of a kind");
  EXPECT_HAS(fault_of(R"({"prompt":"Q","chosen":3,"rejected":[]})"), "\"chosen\" is the number 3");
  EXPECT_HAS(
      fault_of(
          R"({"chosen":[{"role":"user","content":"P"},{"role":"assistant","content":"A"}],"rejected":[{"role":"user","content":"Q"},{"role":"assistant","content":"B"}]})"),
      "the pair has no prompt");
  EXPECT_HAS(
      fault_of(
          R"({"prompt":"Q","chosen":[{"role":"user","content":"A"}],"rejected":[{"role":"assistant","content":"B"}]})"),
      "end with one of the assistant");
  EXPECT_HAS(fault_of(R"({"tokens":[1,2,3]})"), "expected a pair, with \"sequences\"");
  EXPECT_EQ(
      interpret_record(parse_json_record(R"({"tokens":[1,2,3,4],"sequences":[2,2]})"), pairs())
          .lengths,
      (std::vector<int32_t>{2, 2}));
}

class PairSamples : public ::testing::Test {
 protected:
  std::shared_ptr<const Dataset> open(const std::string& lines, int64_t max_length) {
    DatasetOptions o;
    o.format = DatasetFormat::kPairs;
    o.train_on = TrainOn::kLast;
    o.max_length = max_length;
    o.warn = [this](const std::string& line) { warnings_ += line + "\n"; };
    return data_test::open_files({folder_.write("pairs.jsonl", lines)}, o);
  }
  TempFolder folder_;
  std::string warnings_;
};

// The two sides one behind the other; the answers and their ends are trained.
TEST_F(PairSamples, TwoSequencesOfWhichAnswersAreTrained) {
  const auto set =
      open(R"({"prompt":"ab","chosen":"cde","rejected":"f"})"
           "\n"
           R"({"prompt":[{"role":"user","content":"ab"}],"chosen":"cde","rejected":"f"})"
           "\n",
           0);
  const Sample text = set->get(0);
  EXPECT_EQ(text.lengths, (std::vector<int32_t>{6, 4}));
  EXPECT_EQ(text.trained, (std::vector<uint8_t>{0, 0, 1, 1, 1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(text.tokens[5], 257);  // the end of the text
  const Sample chat = set->get(1);
  EXPECT_EQ(chat.lengths.size(), 2u);
  EXPECT_EQ(chat.trained_count, 4 + 2);  // the newline behind the turn's end is nobody's answer
}

TEST_F(PairSamples, EqualSidesAndPromptsThatFillAreLeftOutAndCounted) {
  const auto set = open(R"({"prompt":"ab","chosen":"c","rejected":"d"})"
                        "\n"
                        R"({"prompt":"ab","chosen":"c","rejected":"c"})"
                        "\n"
                        R"({"prompt":"abcdefgh","chosen":"c","rejected":"d"})"
                        "\n"
                        R"({"prompt":"abcdefg","chosen":"cc","rejected":"dd"})"
                        "\n",
                        8);
  int64_t trained[4];
  for (int64_t i = 0; i < 4; ++i) {
    const Sample s = set->get(i);
    trained[i] = s.trained_count;
    set->note(s);
  }
  EXPECT_EQ(trained[0], 4);
  EXPECT_EQ(trained[1], 0);
  EXPECT_EQ(trained[2], 0);
  EXPECT_EQ(trained[3], 2);  // of each answer its first token
  set->warn_noted();
  EXPECT_HAS(warnings_, "1 of 4 samples are pairs of equal sides and are left out (the first: ");
  EXPECT_HAS(warnings_, "1 of 4 samples have nothing to train within max_length 8");
  EXPECT_EQ(warnings_.find("answer by answer"), std::string::npos);
}

}  // namespace
}  // namespace hone::data
