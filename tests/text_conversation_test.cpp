// The loss mask: exactly what the model must generate.
#include "text/conversation.h"

#include <random>
#include <thread>

#include "core/error.h"
#include "text_test_util.h"

namespace hone {
namespace {

using text_test::assets;
using text_test::read_file;
using text_test::read_gz;

const char* const kChatMl =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

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

// A byte-level tokenizer of bytes only, with special tokens: needs no asset.
const Tokenizer& bytes() {
  static const Tokenizer tokenizer = [] {
    BpeTrainerOptions options;
    options.special_tokens = {"<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|eot|>", "<|call|>"};
    options.vocab_size = 256 + 6;
    return Tokenizer::from_json(train_bpe({}, options),
                                R"({"bos_token": "<s>", "eos_token": "</s>"})");
  }();
  return tokenizer;
}

std::string template_of(const std::string& file) {
  return Json::parse(read_file(assets() + "/" + file))["chat_template"].get<std::string>();
}

ConversationEncoder encoder(const Tokenizer& tokenizer, const std::string& source,
                            ConversationEncoder::Options options = {}) {
  return {tokenizer, ChatTemplate::from_string(source, tokenizer.special_tokens()),
          std::move(options)};
}

Json say(const std::string& role, const std::string& content) {
  return Json{{"role", role}, {"content", content}};
}

// The text of each run of trained tokens.
std::vector<std::string> trained_runs(const Tokenizer& tokenizer, const TokenizedText& x) {
  std::vector<std::string> runs;
  for (size_t t = 0; t < x.tokens.size(); t++) {
    if (x.trained[t] == 0) continue;
    if (t == 0 || x.trained[t - 1] == 0) runs.emplace_back();
    runs.back() += tokenizer.token_bytes(x.tokens[t]);
  }
  return runs;
}

std::vector<std::string> runs_of(const ConversationEncoder& e, const Json& chat) {
  const TokenizedText x = e.encode(chat);
  EXPECT_EQ(x.tokens.size(), x.trained.size());
  EXPECT_TRUE(x.trained.empty() || x.trained[0] == 0);
  // The end of a last turn that the template leaves open may follow.
  EXPECT_TRUE(x.text.starts_with(e.render(chat))) << x.text;
  EXPECT_EQ(e.tokenizer().decode(x.tokens), x.text);
  return trained_runs(e.tokenizer(), x);
}

std::string refusal(const ConversationEncoder& e, const Json& chat) {
  try {
    e.encode(chat);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(Conversation, TrainsContentAndStopAlone) {
  const Json chat = {say("system", "S"), say("user", "U1"), say("assistant", "A1"),
                     say("user", "U2"), say("assistant", "A2 \n")};
  EXPECT_EQ(runs_of(encoder(bytes(), kChatMl), chat),
            (std::vector<std::string>{"A1<|im_end|>", "A2 \n<|im_end|>"}));
  EXPECT_EQ(runs_of(encoder(bytes(), kChatMl, {.train_on = TrainOn::kLast}), chat),
            (std::vector<std::string>{"A2 \n<|im_end|>"}));
  const TokenizedText all = encoder(bytes(), kChatMl, {.train_on = TrainOn::kAll}).encode(chat);
  for (size_t t = 0; t < all.trained.size(); t++) EXPECT_EQ(all.trained[t], t > 0 ? 1 : 0);
  // Nothing to train is not this layer's error.
  EXPECT_TRUE(runs_of(encoder(bytes(), kChatMl), Json::array({say("user", "U")})).empty());
  EXPECT_EQ(runs_of(encoder(bytes(), kChatMl), {say("user", ""), say("assistant", "")}),
            (std::vector<std::string>{"<|im_end|>"}));
}

TEST(Conversation, SystemPromptAndForms) {
  const ConversationEncoder e = encoder(bytes(), kChatMl, {.system_prompt = "Be kind"});
  EXPECT_EQ(e.render(Json::array({say("user", "U")})),
            "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nU<|im_end|>\n");
  EXPECT_EQ(e.render({say("system", "Own"), say("user", "U")}),
            "<|im_start|>system\nOwn<|im_end|>\n<|im_start|>user\nU<|im_end|>\n");
  const Json object = {{"messages", Json::array({say("user", "U")})}};
  EXPECT_EQ(e.render(object), e.render(Json::array({say("user", "U")})));
  const TokenizedText asked =
      e.encode(Json::array({say("user", "U")}), /*add_generation_prompt=*/true);
  EXPECT_TRUE(asked.text.ends_with("<|im_start|>assistant\n"));
  const ConversationEncoder tools = encoder(bytes(), "{{ tools | tojson }}");
  EXPECT_EQ(
      tools.render({{"messages", Json::array({say("user", "U")})}, {"tools", "[{\"a\": 1}]"}}),
      "[{\"a\": 1}]");
  EXPECT_EQ(tools.render({{"messages", Json::array({say("user", "U")})}, {"tools", Json::array()}}),
            "null");
  for (const Json& bad : {Json(), Json::array(), Json("x"), Json::object(), Json{1},
                          Json{Json::object()}, Json{{"messages", 3}}, Json{{"role", "user"}}}) {
    EXPECT_THROW(e.encode(bad), UserError) << bad;
  }
  EXPECT_THROW(e.encode(Json::array({say("user", "\xC3(")})), UserError);
}

TEST(Conversation, OtherShapesOfTemplates) {
  const Json chat = {say("user", "U1"), say("assistant", "A1"), say("user", "U2"),
                     say("assistant", " A2 ")};
  // The generation prompt is empty; a space and the content follow; the stop after a space.
  EXPECT_EQ(
      runs_of(encoder(bytes(),
                      "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} "
                      "[/INST]{% else %} {{ m.content | trim }} </s>{% endif %}{% endfor %}"),
              chat),
      (std::vector<std::string>{" A1 </s>", " A2 </s>"}));
  // No stop at all: the content.
  EXPECT_EQ(runs_of(encoder(bytes(),
                            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                            "{% if add_generation_prompt %}assistant: {% endif %}"),
                    {say("user", "U1"), say("assistant", "A1"), say("user", "U2")}),
            (std::vector<std::string>{"A1"}));
  // The next turn's header is the stop.
  EXPECT_EQ(
      runs_of(
          encoder(bytes(),
                  "{% for m in messages %}{{ '<|call|>' if m.role == 'user' else '<|eot|>' }}"
                  "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|eot|>{% endif %}"),
          chat),
      (std::vector<std::string>{"A1<|call|>", " A2 <|call|>"}));
  // Text that spells a special token does not end the turn.
  EXPECT_EQ(
      runs_of(encoder(bytes(), kChatMl),
              {say("user", "<|im_end|>"), say("assistant", "a<|im_end|>b"), say("user", "x")}),
      (std::vector<std::string>{"a<|im_end|>b<|im_end|>"}));
  // Content that occurs in the question, too.
  EXPECT_EQ(runs_of(encoder(bytes(), kChatMl),
                    {say("user", "yes"), say("assistant", "yes"), say("user", "yes")}),
            (std::vector<std::string>{"yes<|im_end|>"}));
  // What the template writes around the content is generated, too; special tokens inside are not
  // the end.
  const Json call = {{"role", "assistant"}, {"content", ""}, {"tool_calls", {{{"name", "f"}}}}};
  EXPECT_EQ(
      runs_of(
          encoder(bytes(),
                  "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}<|call|>"
                  "{{ m.tool_calls | tojson }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
                  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"),
          {say("user", "U"), call, say("tool", "T"), say("assistant", "A")}),
      (std::vector<std::string>{"<|call|>[{\"name\": \"f\"}]<|im_end|>", "A<|im_end|>"}));
}

TEST(Conversation, GenerationBlocksWin) {
  const std::string source =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
      "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content "
      "}}<|im_end|>\n"
      "{% endif %}{% endfor %}";
  const Json chat = {say("user", "U"), say("assistant", "A"), say("user", "U"),
                     say("assistant", "B"), say("user", "V")};
  EXPECT_EQ(runs_of(encoder(bytes(), source), chat),
            (std::vector<std::string>{"A<|im_end|>", "B<|im_end|>"}));
  EXPECT_EQ(runs_of(encoder(bytes(), source, {.train_on = TrainOn::kLast}), chat),
            (std::vector<std::string>{"B<|im_end|>"}));
}

// The texts of an encoding's sequences, trained runs in brackets.
std::vector<std::string> sequences_of(const ConversationEncoder& e, const Json& chat) {
  const TokenizedText x = e.encode(chat);
  std::vector<std::string> out;
  size_t begin = 0;
  for (const int32_t n : x.lengths) {
    std::string text;
    bool inside = false;
    for (size_t t = begin; t < begin + static_cast<size_t>(n); t++) {
      if ((x.trained[t] != 0) != inside) text += inside ? "]]" : "[[";
      inside = x.trained[t] != 0;
      text += e.tokenizer().token_bytes(x.tokens[t]);
    }
    out.push_back(text + (inside ? "]]" : ""));
    begin += static_cast<size_t>(n);
  }
  EXPECT_TRUE(x.lengths.empty() || begin == x.tokens.size());
  return out;
}

// Turns as DeepSeek's distills write them: the prompt opens a thought, the rendering drops it.
const std::string kOpensThought =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";

TEST(Conversation, TemplatesThatRewriteEarlierTurnsAreTrainedAnswerByAnswer) {
  const Json two = {say("user", "U"), say("assistant", "A"), say("user", "V"),
                    say("assistant", "B")};
  const std::string rewriting =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not "
      "loop.last %}"
      "old {% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  EXPECT_EQ(sequences_of(encoder(bytes(), rewriting), two),
            (std::vector<std::string>{
                "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n[[A<|im_end|>]]\n",
                "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nold A<|im_end|>\n"
                "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n[[B<|im_end|>]]\n"}));
  // Where the last answer alone is asked for, or there is one only, the whole is exact.
  EXPECT_EQ(sequences_of(encoder(bytes(), rewriting, {.train_on = TrainOn::kLast}), two),
            std::vector<std::string>{});
  EXPECT_EQ(runs_of(encoder(bytes(), rewriting, {.train_on = TrainOn::kLast}), two),
            (std::vector<std::string>{"B<|im_end|>"}));
  EXPECT_EQ(runs_of(encoder(bytes(), rewriting), {say("user", "U"), say("assistant", "A")}),
            (std::vector<std::string>{"A<|im_end|>"}));
  // The same with marks in the template.
  const std::string marked =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
      "{% generation %}{% if not loop.last %}old {% endif %}{{ m.content }}<|im_end|>"
      "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}";
  EXPECT_EQ(sequences_of(encoder(bytes(), marked), two),
            (std::vector<std::string>{
                "<|im_start|>user\nU<|im_end|><|im_start|>assistant\n[[A<|im_end|>]]",
                "<|im_start|>user\nU<|im_end|><|im_start|>assistant\nold A<|im_end|>"
                "<|im_start|>user\nV<|im_end|><|im_start|>assistant\n[[B<|im_end|>]]"}));
}

TEST(Conversation, ThoughtsThatTheTemplateDropsAreTrained) {
  const auto e = encoder(bytes(), kOpensThought);
  const auto answer = [&](const Json& message) {
    return sequences_of(e, {say("user", "U"), message}).at(0);
  };
  const std::string before = "<|im_start|>user\nU<|im_end|><|im_start|>assistant\n<think>\n";
  // In the content, with its own white space; opened by the prompt, so not opened again.
  EXPECT_EQ(answer(say("assistant", "<think>\nhm\n</think>\n\nA")),
            before + "[[hm\n</think>\n\nA<|im_end|>]]");
  EXPECT_EQ(answer(say("assistant", "hm</think>A")), before + "[[hm</think>A<|im_end|>]]");
  // In a field of its own.
  Json message = say("assistant", "A");
  message["reasoning_content"] = "hm";
  EXPECT_EQ(answer(message), before + "[[hm\n</think>\n\nA<|im_end|>]]");
  // None: what the prompt has opened is closed.
  EXPECT_EQ(answer(say("assistant", "A")), before + "[[\n</think>\n\nA<|im_end|>]]");
  // Earlier thoughts aren't in a later prompt.
  const std::vector<std::string> both =
      sequences_of(e, {say("user", "U"), say("assistant", "<think>\nx\n</think>\n\nA"),
                       say("user", "V"), say("assistant", "<think>\ny\n</think>\n\nB")});
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[1],
            "<|im_start|>user\nU<|im_end|><|im_start|>assistant\n\n\nA<|im_end|>"
            "<|im_start|>user\nV<|im_end|><|im_start|>assistant\n<think>\n"
            "[[y\n</think>\n\nB<|im_end|>]]");
  // Turned off by a variable of the template, so closed by the prompt.
  const std::string closes = std::string(kOpensThought)
                                 .replace(kOpensThought.rfind("<think>\n"), 8,
                                          "{% if t is defined and not t %}<think>\n\n</think>\n\n"
                                          "{% endif %}");
  ConversationEncoder::Options off;
  off.render.variables["t"] = false;
  EXPECT_EQ(sequences_of(encoder(bytes(), closes, off), {say("user", "U"), say("assistant", "A")}),
            std::vector<std::string>{
                "<|im_start|>user\nU<|im_end|><|im_start|>assistant\n<think>\n\n</think>\n\n"
                "[[A<|im_end|>]]"});
}

TEST(Conversation, NoTemplateLosesAThought) {
  Json field = say("assistant", "A"), same = say("assistant", "4");
  field["reasoning_content"] = "hm";
  same["thinking"] = "4";
  const Json inside = say("assistant", "<think>\nhm\n</think>\n\nA");
  const auto answer = [](const std::string& source, const Json& message) {
    const std::vector<std::string> all =
        sequences_of(encoder(bytes(), source), {say("user", "U"), message});
    return all.empty() ? std::string("whole") : all[0].substr(all[0].find("assistant\n") + 10);
  };
  // A template that knows no thoughts: that of a field stands before the answer.
  EXPECT_EQ(answer(kChatMl, field), "[[<think>\nhm\n</think>\n\nA<|im_end|>]]\n");
  EXPECT_EQ(answer(kChatMl, same), "[[<think>\n4\n</think>\n\n4<|im_end|>]]\n");
  EXPECT_EQ(answer(kChatMl, inside), "whole");
  // One that drops them, and whose prompt opens none: it goes on after the turn's header.
  const std::string drops = std::string(kOpensThought).erase(kOpensThought.rfind("<think>\n"), 8);
  EXPECT_EQ(answer(drops, inside), "[[<think>\nhm\n</think>\n\nA<|im_end|>]]");
  EXPECT_EQ(answer(drops, say("assistant", "A")), "whole");
  // Gemma's marks.
  const std::string channel = std::string(kChatMl) + "{# <|channel>thought <channel|> #}";
  EXPECT_EQ(answer(channel, field), "[[<|channel>thought\nhm\n<channel|>\n\nA<|im_end|>]]\n");
  // One that writes an empty thought before a content which has its own.
  const std::string empty =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
      "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";
  EXPECT_EQ(answer(empty, inside), "<think>\n[[hm\n</think>\n\nA<|im_end|>]]");
  EXPECT_EQ(answer(empty, field), "whole");
  // The turn ends behind the answer, whatever the template writes at the end of a text.
  const std::string ends =
      std::string(kChatMl).insert(std::string(kChatMl).rfind("{% endif %}"), "{% else %}</s>");
  EXPECT_EQ(answer(ends, field), "[[<think>\nhm\n</think>\n\nA<|im_end|>]]\n</s>");
  // A prompt that has closed the thought leaves no place for one.
  const std::string closed =
      std::string(kOpensThought)
          .replace(kOpensThought.rfind("<think>\n"), 8, "<think>\n\n</think>\n\n");
  EXPECT_EQ(answer(closed, inside), "<think>\n\n</think>\n\n[[A<|im_end|>]]");
  EXPECT_EQ(answer(closed, field), "<think>\n\n</think>\n\n[[A<|im_end|>]]");
}

// What stands before an answer may be written differently once it is there: the prompt is what it
// is when the answer is asked for.
TEST(Conversation, ThePromptIsThatOfTheQuestion) {
  const std::string counts =
      "{{ messages|length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
  EXPECT_EQ(sequences_of(encoder(bytes(), counts), {say("user", "U"), say("assistant", "A"),
                                                    say("user", "V"), say("assistant", "B")}),
            (std::vector<std::string>{"1U<|im_end|>[[A<|im_end|>]]",
                                      "3U<|im_end|>A<|im_end|>V<|im_end|>[[B<|im_end|>]]"}));
}

// As DeepSeek's templates do with a single call: the list of calls has no end, nor has the turn.
TEST(Conversation, ListsOfCallsAreClosed) {
  const Tokenizer tokenizer = Tokenizer::from_json(
      train_bpe({}, {.vocab_size = 256 + 6,
                     .special_tokens = {"<|im_start|>", "</s>", "<｜calls▁begin｜>",
                                        "<｜calls▁end｜>", "<｜call▁begin｜>", "<｜call▁end｜>"}}));
  const std::string source =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}<｜calls▁begin｜>"
      "{% for c in m.tool_calls %}<｜call▁begin｜>{{ c.function.name }}{{ c.function.arguments }}"
      "<｜call▁end｜>{% endfor %}{% if m.tool_calls|length > 1 %}<｜calls▁end｜></s>{% endif %}"
      "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  const auto call = [](const char* name) {
    return Json{{"type", "function"},
                {"function", {{"name", name}, {"arguments", Json::object()}}}};
  };
  const auto answers = [&](const Json& calls) {
    const Json chat = {say("user", "U"),
                       {{"role", "assistant"}, {"content", ""}, {"tool_calls", calls}},
                       say("tool", "3"),
                       say("assistant", "A")};
    const ConversationEncoder e = encoder(tokenizer, source);
    return trained_runs(tokenizer, e.encode(chat));
  };
  EXPECT_EQ(answers(Json::array({call("f")})),
            (std::vector<std::string>{
                "<｜calls▁begin｜><｜call▁begin｜>f{}<｜call▁end｜><｜calls▁end｜></s>", "A</s>"}));
  EXPECT_EQ(answers(Json::array({call("f"), call("g")})),
            (std::vector<std::string>{"<｜calls▁begin｜><｜call▁begin｜>f{}<｜call▁end｜>"
                                      "<｜call▁begin｜>g{}<｜call▁end｜><｜calls▁end｜></s>",
                                      "A</s>"}));
}

// A template that writes no answer at the end of a text: nothing of it could be trained.
TEST(Conversation, AnAnswerThatIsNotWrittenIsAnError) {
  const std::string source =
      "{% for m in messages %}{% if m.role == 'user' or not loop.last %}{{ m.role }}: "
      "{{ m.content }}\n{% endif %}{% if loop.last %}assistant:<s>{% endif %}{% endfor %}";
  for (const char* words : {"A", "<think>\nhm\n</think>\n\nA"})
    EXPECT_NE(refusal(encoder(bytes(), source), {say("user", "U"), say("assistant", words)})
                  .find("doesn't write what it says"),
              std::string::npos);
  // An end that doesn't follow the answer at once is none.
  EXPECT_TRUE(encoder(bytes(),
                      "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% if "
                      "m.role == 'user' %}<s>{% endif %}{% endfor %}")
                  .turn_ends()
                  .empty());
}

// As templates of models that see images do: a content is a list of parts.
TEST(Conversation, TemplatesThatWantParts) {
  const std::string source =
      "{% for m in messages %}<|im_start|>{{ m.role }}:{% for p in m.content %}"
      "{% if p.type == 'text' %} {{ p.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}";
  const ConversationEncoder e = encoder(bytes(), source);
  const Json chat = {say("user", "U"), say("assistant", "A"), say("user", "V"),
                     say("assistant", "B")};
  EXPECT_EQ(runs_of(e, chat), (std::vector<std::string>{" A<|im_end|>", " B<|im_end|>"}));
  EXPECT_EQ(runs_of(e, {say("user", "U"), say("assistant", "<think>\nhm\n</think>\n\nA")}),
            (std::vector<std::string>{" <think>\nhm\n</think>\n\nA<|im_end|>"}));
  EXPECT_EQ(e.turn_ends(), std::vector<int32_t>{*bytes().id_of("<|im_end|>")});
}

// In linear time: texts that begin alike everywhere.
TEST(Conversation, LongRepeatsAreNoTrap) {
  const std::string counts =
      "{{ messages|length }}{% for m in messages %}{{ m.content|replace('</think>', '') }}"
      "<|im_end|>{% endfor %}";
  const std::string many(200'000, 'a');
  const ConversationEncoder e = encoder(bytes(), counts);
  const TokenizedText x =
      e.encode({say("user", many + "b"), say("assistant", many + "c</think>" + many)});
  EXPECT_GT(x.tokens.size(), 3 * many.size());
}

// The tokens of a prompt don't change with the answer, be they others in the whole text.
TEST(Conversation, ThePromptHasTheTokensItIsAskedWith) {
  const Tokenizer tokenizer = [] {
    Json json = Json::parse(train_bpe(
        {}, {.vocab_size = 256 + 3, .special_tokens = {"<|im_start|>", "<|im_end|>", "<think>"}}));
    const std::string line = "\xC4\x8A";  // how byte-level vocabularies spell a line's end
    json["model"]["vocab"][line + line] = 256 + 3;
    json["model"]["merges"] = Json::array({Json::array({line, line})});
    return Tokenizer::from_json(json.dump());
  }();
  ASSERT_EQ(tokenizer.encode("\n\n").size(), 1u);
  const ConversationEncoder e = encoder(tokenizer, kOpensThought);
  const TokenizedText x = e.encode({say("user", "U"), say("assistant", "A")});
  const std::vector<int32_t> prompt =
      tokenizer.encode("<|im_start|>user\nU<|im_end|><|im_start|>assistant\n<think>\n");
  std::vector<int32_t> want = prompt;
  for (const int32_t id : tokenizer.encode("\n</think>\n\nA<|im_end|>")) want.push_back(id);
  EXPECT_EQ(x.tokens, want);
  for (size_t t = 0; t < x.trained.size(); t++) EXPECT_EQ(x.trained[t], t >= prompt.size()) << t;
}

TEST(Conversation, ATurnThatTheNextOneEndsIsClosed) {
  // As GLM writes: no token behind an answer but the next role's.
  const std::string roles =
      "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{% else %}<|im_end|>{% endif %}"
      "{{ m.content }}{% endfor %}"
      "{% if add_generation_prompt %}<|im_end|>{% endif %}";
  const auto e = encoder(bytes(), roles);
  const TokenizedText x =
      e.encode({say("user", "U"), say("assistant", "A"), say("user", "V"), say("assistant", "B")});
  EXPECT_EQ(x.text, "<|im_start|>U<|im_end|>A<|im_start|>V<|im_end|>B<|im_start|>");
  EXPECT_EQ(x.trained, (std::vector<uint8_t>{0, 0, 0, 1, 1, 0, 0, 1, 1}));
}

TEST(Conversation, EndsOfTurnsAreFound) {
  EXPECT_EQ(encoder(bytes(), kChatMl).turn_ends(),
            std::vector<int32_t>{*bytes().id_of("<|im_end|>")});
  EXPECT_TRUE(
      encoder(bytes(), "{% for m in messages %}{{ m.content }}\n{% endfor %}").turn_ends().empty());
}

TEST(Conversation, ATemplateThatWritesNothingOfTheChatIsRefused) {
  // The same text for every conversation, with white space at its end.
  for (const char* source : {"{[ ", " ", "x\n", "<|im_end|> "})
    EXPECT_NE(refusal(encoder(bytes(), source), {say("user", "U"), say("assistant", "A")}), "")
        << source;
}

TEST(Conversation, WhatCantBeMaskedIsRefused) {
  // A prompt that is not how a turn begins.
  const std::string counts =
      "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
      "{% if add_generation_prompt %}Answer: {% endif %}";
  const Json two = {say("user", "U"), say("assistant", "A"), say("user", "V"),
                    say("assistant", "B")};
  EXPECT_NE(refusal(encoder(bytes(), counts), two).find("--train_on all"), std::string::npos);
  EXPECT_EQ(encoder(bytes(), counts, {.train_on = TrainOn::kAll}).encode(two).trained[1], 1);
  // A template that needs a user first, before an assistant that starts.
  EXPECT_NE(refusal(encoder(bytes(), std::string("{{ messages[0].role + '' }}") + kChatMl),
                    {say("assistant", "A"), say("user", "U")}),
            "");
  EXPECT_THROW(parse_train_on("everything"), UserError);
  EXPECT_EQ(parse_train_on("last"), TrainOn::kLast);
}

TEST(Conversation, RealTemplates) {
  HONE_NEEDS_ASSETS();
  const Json two = {say("user", "U 1"), say("assistant", "A 1"), say("user", "U 2"),
                    say("assistant", "A 2")};
  const std::vector<std::string> want = {"A 1<|im_end|>", "A 2<|im_end|>"};
  EXPECT_EQ(runs_of(encoder(qwen25(), template_of("tok-qwen/qwen2.5.tokenizer_config.json")), two),
            want);
  const std::string thinking = template_of("tok-qwen/qwen3.tokenizer_config.json");
  // Qwen3 drops the thoughts of earlier turns.
  EXPECT_EQ(sequences_of(encoder(qwen3(), thinking), two),
            (std::vector<std::string>{
                "<|im_start|>user\nU 1<|im_end|>\n<|im_start|>assistant\n"
                "[[<think>\n\n</think>\n\nA 1<|im_end|>]]\n",
                "<|im_start|>user\nU 1<|im_end|>\n<|im_start|>assistant\nA 1<|im_end|>\n"
                "<|im_start|>user\nU 2<|im_end|>\n<|im_start|>assistant\n"
                "[[<think>\n\n</think>\n\nA 2<|im_end|>]]\n"}));
  EXPECT_EQ(runs_of(encoder(qwen3(), thinking, {.train_on = TrainOn::kLast}), two),
            (std::vector<std::string>{"<think>\n\n</think>\n\nA 2<|im_end|>"}));
  EXPECT_EQ(runs_of(encoder(qwen3(), thinking),
                    {say("user", "U"), say("assistant", "<think>\nhm\n</think>\n\nA")}),
            (std::vector<std::string>{"<think>\nhm\n</think>\n\nA<|im_end|>"}));
  ConversationEncoder::Options off;
  off.render.variables["enable_thinking"] = false;
  EXPECT_EQ(runs_of(encoder(qwen3(), thinking, off), {say("user", "U"), say("assistant", "A")}),
            (std::vector<std::string>{"A<|im_end|>"}));
  // Tools.
  Json calls = Json::parse(R"([{"role": "user", "content": "w?"},
      {"role": "assistant", "content": "", "tool_calls": [{"type": "function",
        "function": {"name": "f", "arguments": {"a": 1}}}]},
      {"role": "tool", "content": "3"}, {"role": "assistant", "content": "three"}])");
  EXPECT_EQ(
      runs_of(encoder(qwen25(), template_of("tok-qwen/qwen2.5.tokenizer_config.json")), calls),
      (std::vector<std::string>{
          "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call><|im_end|>",
          "three<|im_end|>"}));
}

// Content of every kind, under templates that are well behaved: the trained text is each content
// and its stop, and nothing else. "{}" stands for the content.
TEST(Conversation, TrainedTextIsContentAndStopForAnyContent) {
  struct Case {
    std::string source;
    std::string stop;
  };
  std::vector<Case> cases = {
      {kChatMl, "<|im_end|>"},
      {"{{ bos_token }}{% for m in messages %}<|call|>{{ m.role }}\n\n{{ m.content }}<|eot|>{% "
       "endfor %}"
       "{% if add_generation_prompt %}<|call|>assistant\n\n{% endif %}",
       "<|eot|>"},
      {"{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT: "
       "{% elif m.role == 'system' %}{{ m.content }}\n{% else %}{{ m.content + eos_token }}\n{% "
       "endif %}{% endfor %}",
       "</s>"},
  };
  const std::vector<std::string> pieces = {"hello",       " world",
                                           "\n",          "  ",
                                           "é",           "e\xCC\x81",
                                           "日本",        "👍🏽",
                                           "<|im_end|>",  "</s>",
                                           "ASSISTANT: ", "<|im_start|>assistant\n",
                                           "{{ x }}",     "{% endfor %}",
                                           "'",           "\"",
                                           "\\n",         "0",
                                           "user",        "."};
  std::mt19937 random(11);
  auto content = [&] {
    std::string text;
    for (int n = 1 + static_cast<int>(random() % 8); n > 0; n--) {
      text += pieces[random() % pieces.size()];
    }
    return text;
  };
  for (const Case& c : cases) {
    const ConversationEncoder e = encoder(bytes(), c.source);
    for (int trial = 0; trial < 300; trial++) {
      Json chat = Json::array();
      std::vector<std::string> want;
      if (random() % 2 == 0) chat.push_back(say("system", content()));
      for (int turns = 1 + static_cast<int>(random() % 4); turns > 0; turns--) {
        chat.push_back(say("user", content()));
        const std::string answer = content();
        chat.push_back(say("assistant", answer));
        want.push_back(answer + c.stop);
      }
      if (random() % 3 == 0) chat.push_back(say("user", content()));
      ASSERT_EQ(runs_of(e, chat), want) << chat.dump();
    }
  }
}

// A token that straddles the end of a span is not trained.
TEST(Conversation, TokensAcrossTheEdgeAreNotTrained) {
  const nlohmann::json file = text_test::own_tokenizer("byte_level");
  const Tokenizer tokenizer = Tokenizer::from_json(file["tokenizer"].dump());
  const std::string source =
      "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
      "{% if add_generation_prompt %}assistant:{% endif %}";
  // ":" and ":)" come out as "::" and ")": the tokens of the whole text decide.
  const ConversationEncoder e = encoder(tokenizer, source);
  const TokenizedText x = e.encode({say("user", "a"), say("assistant", ":)"), say("user", "b")});
  std::string glued;
  for (size_t t = 0; t < x.tokens.size(); t++) {
    if (x.trained[t] != 0) glued += tokenizer.token_bytes(x.tokens[t]);
  }
  EXPECT_NE(x.text.find("assistant::)"), std::string::npos);
  EXPECT_TRUE(tokenizer.id_of("::").has_value());
  EXPECT_EQ(glued, ")");
  EXPECT_EQ(x.tokens, tokenizer.encode(x.text));
}

TEST(Conversation, ManyThreadsAgree) {
  const ConversationEncoder e = encoder(bytes(), kChatMl);
  const Json chat = {say("user", "U1"), say("assistant", "A1"), say("user", "U2"),
                     say("assistant", "A2")};
  const TokenizedText want = e.encode(chat);
  std::vector<int> same(4, 0);
  std::vector<std::thread> threads;
  for (int& result : same) {
    threads.emplace_back([&] {
      result = 1;
      for (int i = 0; i < 100; i++) {
        const TokenizedText x = e.encode(chat);
        if (x.tokens != want.tokens || x.trained != want.trained) result = 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(same, (std::vector<int>{1, 1, 1, 1}));
}

TEST(Conversation, PlainText) {
  const TokenizedText x = encode_plain_text(bytes(), "ab", "");
  EXPECT_EQ(x.trained, (std::vector<uint8_t>{0, 1}));
  EXPECT_EQ(x.text, "ab");
  EXPECT_TRUE(encode_plain_text(bytes(), "", "").tokens.empty());
  // The end, once, also of a tokenizer that adds it.
  Json json = Json::parse(train_bpe({}, {.vocab_size = 257, .special_tokens = {"</s>"}}));
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
        {{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}}}},
      {"pair", Json::array({{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                            {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}})},
      {"special_tokens", {{"</s>", {{"id", "</s>"}, {"ids", {0}}, {"tokens", {"</s>"}}}}}}};
  const Tokenizer ending = Tokenizer::from_json(json.dump());
  ASSERT_EQ(ending.encode("ab", true).size(), 3u);
  for (const char* text : {"ab", "ab</s>"})
    EXPECT_EQ(encode_plain_text(ending, text, "</s>").tokens.size(), 3u) << text;
  EXPECT_EQ(encode_plain_text(bytes(), "ab", "<|im_end|>").tokens.size(), 3u);
  EXPECT_EQ(encode_plain_text(bytes(), "ab<|im_end|>", "<|im_end|>").tokens.size(), 3u);
}

TEST(ConversationTemplate, FilesOfTheOriginal) {
  HONE_NEEDS_ASSETS();
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(assets() + "/data/conversation_template")) {
    const ConversationTemplateFile file = load_conversation_template(entry.path().string());
    EXPECT_FALSE(file.chat_template.empty());
    EXPECT_FALSE(file.stop_ids.empty());
    EXPECT_FALSE(file.end_of_assistant.empty());
    ConversationEncoder::Options options;
    options.system_prompt = file.system_message;
    const ConversationEncoder e = encoder(bytes(), file.chat_template, options);
    EXPECT_NE(e.render(Json::array({say("user", "the question")}), true).find("the question"),
              std::string::npos)
        << entry.path();
    files++;
  }
  EXPECT_EQ(files, 14);
}

TEST(ConversationTemplate, BadFilesAreUserErrors) {
  const text_test::TempFolder folder;
  EXPECT_THROW(load_conversation_template(folder.path() + "/none.json"), UserError);
  for (const char* bad :
       {"", "[]", "{}", "{\"chat_template\": 3}", R"({"chat_template": "x", "stop_ids": 3})",
        R"({"chat_template": "x", "stop_ids": [-1]})",
        R"({"chat_template": "x", "stop_ids": [99999999999]})",
        R"({"chat_template": "x", "stop_ids": ["a"]})",
        R"({"chat_template": "x", "system_message": 1})"}) {
    folder.write("t.json", bad);
    EXPECT_THROW(load_conversation_template(folder.path() + "/t.json"), UserError) << bad;
  }
  folder.write("t.json", R"({"chat_template": "x", "system_message": null, "stop_ids": [7]})");
  EXPECT_EQ(load_conversation_template(folder.path() + "/t.json").stop_ids,
            std::vector<int32_t>{7});
}

}  // namespace
}  // namespace hone
