// Records of every format to conversations, and what is said of records that fit none.
#include "data/format.h"
#include "data/record_json.h"

#include <random>

#include "data_test_util.h"

namespace hone::data {
namespace {

using data_test::asset;
using data_test::message_of;
using data_test::TempFolder;

Record record_of(const std::string& json, FormatRules rules = {}) {
  return interpret_record(parse_json_record(json), rules);
}
Json messages_of(const std::string& json, FormatRules rules = {}) {
  const Record record = record_of(json, rules);
  EXPECT_EQ(record.kind, Record::Kind::kChat);
  return record.conversation;
}
std::string fault_of(const std::string& json, FormatRules rules = {}) {
  return message_of<RecordError>([&] { record_of(json, rules); });
}

const Json kOneTurn =
    Json::parse(R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A"}])");

TEST(Format, TheSameConversationInEveryFormat) {
  for (
      const char* json : {
          R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A"}])",
          R"({"messages":[{"role":"user","content":"Q"},{"role":"assistant","content":"A"}]})",
          R"({"messages":[{"from":"user","content":"Q"},{"from":"assistant","content":"A"}]})",
          R"({"conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"A"}]})",
          R"({"conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"A"}],"tools":""})",
          R"({"instruction":"Q","input":"","output":"A"})",
          R"({"instruction":"Q","output":"A","history":[],"system":null})",
          R"({"instruction":"","input":"Q","output":"A"})",
          R"({"question":"Q","answer":"A"})",
          R"({"prompt":[{"role":"user","content":"Q"}],"completion":[{"role":"assistant","content":"A"}]})",
          R"({"messages":[{"role":"user","content":[{"type":"text","text":"Q"}]},{"role":"assistant","content":[{"type":"text","value":"A"}],"loss_weight":1.0}]})",
      }) {
    const Record record = record_of(json);
    EXPECT_EQ(record.conversation, kOneTurn) << json;
    EXPECT_TRUE(record.turn_trained.empty()) << json;
  }
  EXPECT_EQ(messages_of(R"({"messages":{"role":"user","content":"Q"},"gt_answer":"4"})"),
            Json::array({kOneTurn[0]}));
}

TEST(Format, AlpacaWithSystemInputAndHistory) {
  EXPECT_EQ(messages_of(R"({"instruction":"I","input":"in","output":"O","system":"S",
                            "history":[["q1","a1"],["q2","a2"]]})"),
            Json::parse(R"([{"role":"system","content":"S"},{"role":"user","content":"q1"},
              {"role":"assistant","content":"a1"},{"role":"user","content":"q2"},
              {"role":"assistant","content":"a2"},{"role":"user","content":"I\nin"},
              {"role":"assistant","content":"O"}])"));
}

TEST(Format, ToolsAndCalls) {
  const Json c = messages_of(R"({"system":"S","tools":"[{\"name\":\"f\"}]","conversations":[
      {"from":"human","value":"Q"},
      {"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},
      {"from":"observation","value":"7"},{"from":"gpt","value":"A"}]})");
  EXPECT_EQ(c["tools"], Json::parse(R"([{"name":"f"}])"));
  EXPECT_EQ(c["messages"], Json::parse(R"([{"role":"system","content":"S"},
      {"role":"user","content":"Q"},
      {"role":"assistant","content":"","tool_calls":[
        {"type":"function","function":{"name":"f","arguments":{"x":1}}}]},
      {"role":"tool","content":"7"},{"role":"assistant","content":"A"}])"));
  // OpenAI's own spelling: arguments become what their text says, null is as good as absent.
  const std::string openai = R"({"messages":[{"role":"user","content":"Q"},
      {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function",
        "function":{"name":"f","arguments":"{\"x\": 1}"}}]},
      {"role":"tool","content":"7","tool_call_id":"1"}],"tools":[{"type":"function"}]})";
  Json want = Json::parse(openai);
  want["messages"][1]["content"] = "";
  want["messages"][1]["tool_calls"][0]["function"]["arguments"] = Json::parse(R"({"x":1})");
  EXPECT_EQ(messages_of(openai), want);
  // A text that is no object stays one.
  const Json odd = messages_of(R"([{"role":"assistant","content":"c","tool_calls":[
      {"function":{"name":"f","arguments":"not JSON"}},{"name":"g","arguments":"[1]"}]}])");
  EXPECT_EQ(odd[0]["tool_calls"][0]["function"]["arguments"], "not JSON");
  EXPECT_EQ(odd[0]["tool_calls"][1]["arguments"], "[1]");
}

TEST(Format, NullIsAsGoodAsAbsent) {
  const Json with = messages_of(R"({"conversations":null,"tools":null,"documents":null,"messages":[
      {"role":"user","content":"Q","tool_calls":null,"name":null},
      {"role":"assistant","content":null,"weight":null,"tool_calls":[{"id":null,"type":"function",
        "function":{"name":"f","arguments":{"a":1,"b":null}}}]}]})");
  EXPECT_EQ(with, messages_of(R"([{"role":"user","content":"Q"},{"role":"assistant","content":"",
      "tool_calls":[{"type":"function","function":{"name":"f","arguments":{"a":1}}}]}])"));
  EXPECT_HAS(fault_of(R"([{"role":"assistant","content":null,"tool_calls":null}])"),
             "has no \"content\"");
}

TEST(Format, FieldsThatAreNotReadAreNamed) {
  EXPECT_EQ(record_of(R"({"messages":[{"role":"user","content":"Q"}],"id":7,"source":null,
      "tools":[]})")
                .unused,
            std::vector<std::string>{"id"});
  EXPECT_EQ(record_of(R"({"question":"Q","answer":"A","level":3})").unused,
            std::vector<std::string>{"level"});
  EXPECT_TRUE(record_of(R"({"tokens":[1,2,3],"sequences":[1,2]})").unused.empty());
  EXPECT_EQ(record_of(R"({"prompt":"P","completion":"C","tools":[]})").unused,
            std::vector<std::string>{"tools"});
  EXPECT_EQ(record_of(R"({"text":"t","meta":{}})").unused, std::vector<std::string>{"meta"});
  EXPECT_TRUE(
      record_of(R"({"instruction":"I","input":"i","output":"O","history":[]})").unused.empty());
  // A system prompt beside the messages is one.
  EXPECT_EQ(messages_of(R"({"system":"S","messages":[{"role":"user","content":"Q"}]})")[0],
            Json::parse(R"({"role":"system","content":"S"})"));
  EXPECT_HAS(fault_of(R"({"system":"S","messages":[{"role":"system","content":"T"}]})"),
             "leave one of them out");
}

TEST(Format, ReasoningGoesWhereTheTemplateReadsIt) {
  const std::string json = R"([{"role":"user","content":"Q"},{"role":"assistant","content":[
      {"type":"reasoning","value":"R"},{"type":"text","value":"A"}]}])";
  EXPECT_EQ(messages_of(json)[1]["content"], "<think>\nR\n</think>\n\nA");
  const Json with = messages_of(json, {.template_takes_reasoning = true});
  EXPECT_EQ(with[1]["content"], "A");
  EXPECT_EQ(with[1]["reasoning_content"], "R");
}

TEST(Format, TurnsThatAreNotTrained) {
  const auto turns = [](const std::string& json) { return record_of(json).turn_trained; };
  EXPECT_EQ(turns(R"({"messages":[{"role":"user","content":"Q"},
      {"role":"assistant","content":"A","weight":0},{"role":"user","content":"Q"},
      {"role":"assistant","content":"A","weight":1},{"role":"assistant","content":"B"}]})"),
            (std::vector<uint8_t>{0, 1, 1}));
  EXPECT_EQ(turns(R"({"prompt":[{"role":"user","content":"Q"},{"role":"assistant","content":"A"},
      {"role":"user","content":"R"}],"completion":[{"role":"assistant","content":"B"}]})"),
            (std::vector<uint8_t>{0, 1}));
  EXPECT_HAS(fault_of(R"([{"role":"user","content":"Q","weight":1}])"),
             "\"weight\" is 1 on a user");
  EXPECT_HAS(fault_of(R"([{"role":"assistant","content":"Q","weight":0.5}])"), "0 or 1");
  for (const char* key : {"loss", "train", "training", "trainable", "loss_weight"})
    for (const auto& [off, on] : {std::pair{"false", "true"}, std::pair{"0", "1"}})
      EXPECT_EQ(turns(fmt::format(R"([{{"role":"user","content":"Q","{0}":false}},
          {{"role":"assistant","content":"A","{0}":{1}}},{{"role":"user","content":"Q"}},
          {{"role":"assistant","content":"B","{0}":{2}}}])",
                                  key, off, on)),
                (std::vector<uint8_t>{0, 1}))
          << key;
  EXPECT_EQ(turns(R"([{"role":"user","content":"Q"},
      {"role":"assistant","content":"A","masked":true},{"role":"user","content":"Q"},
      {"role":"assistant","content":"B","masked":false}])"),
            (std::vector<uint8_t>{0, 1}));
  EXPECT_HAS(fault_of(R"([{"role":"assistant","content":"Q","loss":"no"}])"), "\"loss\" is");
}

TEST(Format, TextsAndTokens) {
  EXPECT_EQ(record_of(R"({"text":"hello","meta":1})").text, "hello");
  const Record pair = record_of(R"({"prompt":"P","completion":"C"})");
  EXPECT_EQ(pair.kind, Record::Kind::kPromptCompletion);
  EXPECT_EQ(pair.prompt + pair.completion, "PC");
  const Record tokens = record_of(R"({"tokens":[5,6,7],"trained":[1,0,true]})");
  EXPECT_EQ(tokens.tokens, (std::vector<int32_t>{5, 6, 7}));
  EXPECT_EQ(tokens.trained, (std::vector<uint8_t>{0, 0, 1}));
  EXPECT_EQ(record_of(R"({"tokens":[5,6,7]})").trained, (std::vector<uint8_t>{0, 1, 1}));
  const Record several = record_of(R"({"tokens":[5,6,7,8,9],"sequences":[2,3]})");
  EXPECT_EQ(several.lengths, (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(several.trained, (std::vector<uint8_t>{0, 1, 0, 1, 1}));
}

TEST(Format, WhatWasFoundAndWhatWasExpected) {
  EXPECT_HAS(fault_of(R"({"foo":1,"bar":2})"),
             "an object with the keys \"foo\", \"bar\"; expected one of");
  EXPECT_HAS(fault_of("[]"), "the conversation is empty");
  EXPECT_HAS(fault_of(R"({"messages":[]})"), "the conversation is empty");
  EXPECT_HAS(fault_of(R"({"conversations":[]})"), "\"conversations\" is empty");
  EXPECT_HAS(fault_of("12"), "found the number 12");
  EXPECT_HAS(fault_of("\"text\""), "found the string \"text\"");
  EXPECT_HAS(fault_of("[1,2]"), "first element is the number 1");
  EXPECT_HAS(fault_of(R"([{"role":"user"}])"), "message 1 (user) has no \"content\"");
  EXPECT_HAS(fault_of(R"([{"role":"user","content":3}])"), "\"content\" is the number 3");
  EXPECT_HAS(fault_of(R"([{"role":"user","content":"Q"},{"content":"A"}])"),
             "message 2 has no \"role\"");
  EXPECT_HAS(fault_of(R"([{"role":"wizard","content":"Q"}])"), "\"wizard\"; expected system, user");
  EXPECT_HAS(fault_of(R"([{"role":"user","content":"Q"},"x"])"), "message 2 is the string");
  EXPECT_HAS(fault_of(R"([{"role":"user","content":[{"type":"image_url"}]}])"), "\"image_url\"");
  EXPECT_HAS(fault_of(R"({"instruction":"I","output":["O"]})"), "\"output\" is a list of 1");
  EXPECT_HAS(fault_of(R"({"instruction":"I","output":"O","history":["x"]})"), "pairs");
  EXPECT_HAS(fault_of(R"({"prompt":"P","completion":[]})"), "two strings or two lists");
  EXPECT_HAS(fault_of(R"({"tokens":[]})"), "\"tokens\" is empty");
  EXPECT_HAS(fault_of(R"({"tokens":[1,-2]})"), "token 1 of \"tokens\" is the number -2");
  EXPECT_HAS(fault_of(R"({"tokens":[1,1.5]})"), "1.5");
  EXPECT_HAS(fault_of(R"({"tokens":[1,99999999999]})"), "99999999999");
  EXPECT_HAS(fault_of(R"({"tokens":[1,2],"trained":[1]})"), "there are 2 tokens");
  EXPECT_HAS(fault_of(R"({"tokens":[1,2],"trained":[0,2]})"), "expected 0 or 1");
  EXPECT_HAS(fault_of(R"({"tokens":[1,2],"sequences":[1,2]})"), "number 2 where 1 of 2");
  EXPECT_HAS(fault_of(R"({"tokens":[1,2],"sequences":[1,0]})"), "number 0");
  EXPECT_HAS(fault_of(R"({"tokens":[1,2],"sequences":[1]})"), "adds up to 1");
  EXPECT_HAS(fault_of(R"({"tokens":[1,2],"sequences":"2"})"), "list of lengths");
  EXPECT_HAS(
      fault_of(R"({"conversations":[{"from":"human","value":"Q"}],"chosen":{},"rejected":{}})"),
      "preference record");
  EXPECT_HAS(fault_of(R"({"messages":[{"role":"user","content":"Q"}],"label":true})"), "hone kto");
  EXPECT_HAS(fault_of(R"({"conversations":[{"from":"function_call","value":"call f"
}]
})"),
             "function call");
}

TEST(Format, DepthInsideStringsIsBoundedToo) {
  Json record = Json::parse(R"({"messages":[{"role":"user","content":"Q"}]})");
  record["tools"] = std::string(1000000, '[');
  EXPECT_HAS(fault_of(record.dump()), "nested deeper");
  EXPECT_HAS(fault_of(R"({"messages":[{"role":"user","content":"Q"}],"tools":"[1"})"),
             "\"tools\" is the string");
}

TEST(Format, RolesTheTemplateNamesAreAccepted) {
  const std::string source = "{% if message.role == 'critic' %}";
  EXPECT_EQ(
      messages_of(R"([{"role":"critic","content":"Q"}])", {.template_source = &source})[0]["role"],
      "critic");
}

TEST(Format, WhatIsNotJson) {
  const auto fault = [](std::string text) {
    return message_of<RecordError>([&] { parse_json_record(text); });
  };
  EXPECT_HAS(fault("{\"a\":1"), "not valid JSON at byte");
  EXPECT_HAS(fault("{\"a\":1} {\"b\":2}"), "not valid JSON at byte");
  EXPECT_HAS(fault("hello"), "not valid JSON at byte 1");
  EXPECT_HAS(fault("{"), "expected one complete JSON value on one line");
  EXPECT_HAS(fault("{'a': 1}"), "single quotes are Python's");
  EXPECT_HAS(fault(std::string("{\"a\":\"\0\"}", 10)), "not valid JSON");
  EXPECT_HAS(fault("{\"a\":\"\\ud800\"}"), "not valid JSON");
  EXPECT_HAS(fault("{\"a\":\"\xC3\x28\"}"), "invalid UTF-8: byte 0xC3 at byte 6");
  EXPECT_HAS(fault("{\"a\":1e999}"), "not valid JSON");
  EXPECT_HAS(fault(std::string(1000000, '[')), "nested deeper than 200");
  EXPECT_NO_THROW(parse_json_record(std::string(200, '[') + std::string(200, ']')));
}

TEST(Format, DatasetInfo) {
  TempFolder folder;
  const auto info = folder.write("dataset_info.json", R"({
    "plain": {"file_name": "a.json"},
    "qa": {"file_name": "b.json", "columns": {"prompt": "problem", "response": "solution"}},
    "wiki": {"file_name": "c.txt", "columns": {"prompt": "text"}},
    "chat": {"file_name": "d.json", "formatting": "sharegpt", "columns": {"messages": "talk"},
             "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "me",
                      "assistant_tag": "you"}},
    "pairs": {"file_name": "e.json", "ranking": true},
    "hub": {"hf_hub_url": "x/y"}})");
  EXPECT_EQ(find_dataset_info(info, "plain").format, DatasetFormat::kAuto);
  EXPECT_EQ(find_dataset_info(info, "wiki").format, DatasetFormat::kText);
  const auto rules = [&](const char* name) {
    const auto entry = find_dataset_info(info, name);
    return FormatRules{.format = entry.format, .columns = entry.columns};
  };
  EXPECT_EQ(messages_of(R"({"problem":"Q","solution":"A","input":""})", rules("qa")), kOneTurn);
  EXPECT_EQ(
      messages_of(R"({"talk":[{"who":"me","what":"Q"},{"who":"you","what":"A"}]})", rules("chat")),
      kOneTurn);
  EXPECT_HAS(message_of<UserError>([&] { find_dataset_info(info, "none"); }), "it has plain, qa");
  EXPECT_HAS(message_of<UserError>([&] { find_dataset_info(info, "pairs"); }), "preference");
  EXPECT_HAS(message_of<UserError>([&] { find_dataset_info(info, "hub"); }), "no local file");
}

// Records of every format with bytes changed, cut and copied about, as files of both containers:
// each is read or refused with a message, never anything else.
TEST(Format, MutatedFilesAreReadOrRefused) {
  const std::string seeds[] = {
      R"([{"role":"user","content":"Q"},{"role":"assistant","content":[{"type":"text","text":"A"}]}])",
      R"({"conversations":[{"from":"human","value":"Q"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{}}"}],"tools":"[{}]"})",
      R"({"instruction":"I","input":"in","output":"O","history":[["a","b"]],"system":"S"})",
      R"({"prompt":"P","completion":"C"})",
      R"({"question":"Q","answer":4.5})",
      R"({"text":"\u00e9 \ud83e\udd14 é"})",
      R"({"tokens":[1,2,3],"trained":[0,1,true]})",
      R"([{"text":"a"},[{"role":"user","content":"Q","weight":0}]])"};
  TempFolder folder;
  std::mt19937_64 random(17);
  int read = 0, refused = 0;
  for (int trial = 0; trial < 1000; ++trial) {
    std::string text;
    for (int k = 0; k < 3; ++k) text += seeds[random() % std::size(seeds)] + "\n";
    for (int k = static_cast<int>(random() % 6); k > 0; --k) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, random() % 8);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 16));
          break;
        case 3:
          text[at] = "{}[]\",:\\ 0"[random() % 10];
          break;
      }
      if (text.empty()) text = "x";
    }
    const auto path = folder.write("m.json", text);
    try {
      const Source source(path, {.max_record_bytes = 1000});
      std::string bytes;
      for (int64_t i = 0; i < source.size(); ++i) {
        source.read(i, bytes);
        try {
          record_of(bytes);
          ++read;
        } catch (const RecordError&) {
          ++refused;
        }
        EXPECT_GT(source.line(i), 0);
      }
    } catch (const UserError&) {
      ++refused;
    }
  }
  EXPECT_GT(read, 250);
  EXPECT_GT(refused, 250);
}

// Every record of the real files of each format is understood; preference files are refused.
TEST(Format, RealFiles) {
  if (!std::filesystem::exists(asset("data"))) GTEST_SKIP() << "needs ../shared/assets";
  const auto count = [](const std::string& name) {
    const Source source(asset(name), {});
    std::string bytes;
    for (int64_t i = 0; i < source.size(); ++i) {
      source.read(i, bytes);
      const Record record = record_of(bytes);
      EXPECT_EQ(record.kind, Record::Kind::kChat);
      const Json& m =
          record.conversation.is_array() ? record.conversation : record.conversation["messages"];
      EXPECT_EQ(m.back()["role"], "assistant") << name << " " << i;
    }
    return source.size();
  };
  EXPECT_EQ(count("data/colossal_lora_sft_data.jsonl"), 10);
  EXPECT_EQ(count("data/colossal_test_sft_data.jsonl"), 1);
  EXPECT_EQ(count("data/llamafactory_alpaca_en_demo.json"), 999);
  EXPECT_EQ(count("data/llamafactory_alpaca_zh_demo.json"), 1000);
  EXPECT_EQ(count("data/llamafactory_identity.json"), 91);
  EXPECT_EQ(count("data/llamafactory_v1_sft_demo.jsonl"), 500);
  EXPECT_EQ(count("data/llamafactory_reason_tool_use_demo_50.jsonl"), 50);
  EXPECT_EQ(count("math/gsm8k_test.jsonl"), 1319);
  for (const char* name : {"llamafactory_dpo_en_demo.json", "llamafactory_kto_en_demo.json",
                           "llamafactory_v1_dpo_demo.jsonl", "colossal_test_dpo_data.jsonl",
                           "colossal_test_kto_data.jsonl"}) {
    const Source source(asset(std::string("data/") + name), {});
    std::string bytes;
    source.read(0, bytes);
    const std::string text = fault_of(bytes);
    EXPECT_TRUE(text.find("preference") != std::string::npos ||
                text.find("kto") != std::string::npos)
        << text;
  }
}

}  // namespace
}  // namespace hone::data
