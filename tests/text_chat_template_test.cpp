// Chat templates against golden renderings, and against hostile ones.
#include "text/chat_template.h"

#include <fmt/format.h>

#include "core/error.h"
#include "text_test_util.h"

namespace hone {
namespace {

using text_test::assets;
using text_test::read_file;

std::map<std::string, std::string, std::less<>> tokens_of(const Json& json) {
  std::map<std::string, std::string, std::less<>> tokens;
  for (const auto& [role, token] : json.items()) tokens[role] = token.get<std::string>();
  return tokens;
}

// Expressions, statements and white space as transformers' environment renders them
// (tools/make_text_fixtures.py).
TEST(ChatTemplate, RendersAsJinja) {
  const Json fixture = Json::parse(read_file(HONE_SOURCE_DIR "/tests/fixtures/text/jinja.json"));
  for (const Json& item : fixture["cases"]) {
    const std::string source = item["template"];
    RenderOptions options;
    options.tools = fixture["tools"];
    options.variables = item["variables"];
    try {
      const ChatTemplate chat_template =
          ChatTemplate::from_string(source, tokens_of(fixture["special_tokens"]));
      const Rendered rendered = chat_template.render(
          fixture["conversations"][item["conversation"].get<std::string>()], options);
      if (item.contains("error") || item.contains("unknown")) {
        ADD_FAILURE() << source << "\nrendered: " << rendered.text << "\nwant: " << item;
        continue;
      }
      EXPECT_EQ(rendered.text, item["expected"].get<std::string>()) << source;
      if (item.contains("spans")) {
        std::vector<ByteRange> spans;
        for (const Json& span : item["spans"]) spans.push_back({span[0], span[1]});
        EXPECT_EQ(rendered.generation, spans) << source;
      }
    } catch (const UserError& error) {
      EXPECT_TRUE(item.contains("error") || item.contains("unknown"))
          << source << "\nwant: " << item.value("expected", "") << "\ngot: " << error.what();
    }
  }
}

uint64_t fnv1a(const std::string& text) {
  uint64_t value = 0xCBF29CE484222325u;
  for (const unsigned char byte : text) value = (value ^ byte) * 0x100000001B3u;
  return value;
}

// The templates of real models over conversations with systems, tools, thoughts, as transformers
// renders them (tools/make_text_fixtures.py).
TEST(ChatTemplate, RealTemplatesRenderAsTransformersDoes) {
  HONE_NEEDS_ASSETS();
  const Json fixture =
      Json::parse(read_file(HONE_SOURCE_DIR "/tests/fixtures/text/real_templates.json"));
  int rendered = 0;
  int refused = 0;
  for (const Json& group : fixture["templates"]) {
    const Json file = Json::parse(read_file(assets() + "/" + group["file"].get<std::string>()));
    const std::string name = group["name"];
    Json source = file.value("chat_template", Json());
    if (!name.empty()) {
      for (const Json& item : file["cases"]) {
        if (item["name"] == name) source = item["template_str"];
      }
    }
    ASSERT_TRUE(source.is_string()) << group["file"];
    const ChatTemplate chat_template =
        ChatTemplate::from_string(source.get<std::string>(), tokens_of(group["special_tokens"]));
    for (const Json& row : group["rows"]) {
      RenderOptions options;
      options.add_generation_prompt = row[1];
      if (row[2].get<bool>()) options.tools = fixture["tools"];
      if (!row[3].is_null()) options.variables["enable_thinking"] = row[3];
      const Json& conversation = fixture["conversations"][row[0].get<std::string>()];
      const std::string what = group["file"].get<std::string>() + " " + name + " " + row.dump();
      try {
        const std::string text = chat_template.render(conversation, options).text;
        ASSERT_FALSE(row[4].is_null()) << what << "\n" << text;
        EXPECT_EQ(fmt::format("{:016x}", fnv1a(text)), row[4].get<std::string>()) << what << "\n"
                                                                                  << text;
        rendered++;
      } catch (const UserError& error) {
        EXPECT_TRUE(row[4].is_null()) << what << "\n" << error.what();
        refused++;
      }
    }
  }
  EXPECT_GT(rendered, 500);
  EXPECT_GT(refused, 10);
}

// The goldens' program puts the system prompt into the first user turn for templates that know no
// system role; such a conversation then renders as the golden.
Json without_system(const Json& conversation) {
  Json merged = conversation;
  const std::string system = merged[0]["content"];
  merged.erase(merged.begin());
  merged[0]["content"] = system + "\n" + merged[0]["content"].get<std::string>();
  return merged;
}

TEST(ChatTemplate, GoldenRenderings) {
  HONE_NEEDS_ASSETS();
  const Json goldens = Json::parse(read_file(assets() + "/chat-templates/goldens.json"));
  const Json& conversation = goldens["conversation"];
  int checked = 0;
  for (const Json& item : goldens["cases"]) {
    RenderOptions options;
    options.add_generation_prompt = goldens["add_generation_prompt"].get<bool>();
    std::map<std::string, std::string, std::less<>> special;
    for (const char* role : {"bos_token", "eos_token"}) special[role] = item.value(role, "");
    const std::string jinja = item.value("expected_output_jinja", "");
    const std::string want = jinja.empty() ? item["expected_output"].get<std::string>() : jinja;
    const std::string name = item["name"];
    const std::string source = item["template_str"];
    const bool knows_system =
        name != "OrionStarAI/Orion-14B-Chat" && name != "yandex/YandexGPT-5-Lite-8B-instruct";
    const ChatTemplate chat_template = ChatTemplate::from_string(source, special);
    const Json chat = knows_system ? conversation : without_system(conversation);
    EXPECT_EQ(chat_template.render(chat, options).text, want) << name;
    checked++;
  }
  EXPECT_EQ(checked, 16);
}

void expect_refused(const std::string& source, const std::string& reason) {
  const Json conversation = Json::parse(R"([{"role": "user", "content": "hello"}])");
  try {
    const ChatTemplate chat_template = ChatTemplate::from_string(source, {});
    const std::string text = chat_template.render(conversation).text;
    ADD_FAILURE() << source << " rendered " << text.size() << " bytes";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << source << "\n"
                                                                         << error.what();
  }
}

// No template hangs, fills the memory, overflows the stack or reaches a file.
TEST(ChatTemplate, HostileTemplatesAreRefused) {
  const std::string stopped = "runs too long or writes too much";
  const std::string loop = "{% for a in range(10000) %}";
  expect_refused(loop + loop + loop + "{% endfor %}{% endfor %}{% endfor %}", stopped);
  expect_refused(loop + loop + "0123456789012345{% endfor %}{% endfor %}", stopped);
  expect_refused(
      "{% set ns = namespace(x='ab') %}" + loop + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
      stopped);
  expect_refused(
      "{% set ns = namespace(x='ab') %}" + loop + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      stopped);
  expect_refused("{% set ns = namespace(x=[1]) %}" + loop +
                     "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
                 "");
  // Small values that are huge as text, because their parts are shared.
  std::string shared =
      "{% set ns = namespace(x=['a']) %}{% for a in range(60) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  for (const char* use :
       {"{{ ns.x }}", "{{ ns.x ~ '' }}", "{{ ns.x | tojson }}", "{{ ns.x | string }}",
        "{{ ns.x | upper }}", "{{ ns.x | join }}", "{{ ns.x | e }}", "{{ '%s' | format(ns.x) }}",
        "{{ ''.join(ns.x) }}", "{{ '{}'.format(ns.x) }}", "{{ raise_exception(ns.x) }}"}) {
    expect_refused(shared + use, "");
  }
  expect_refused("{{ 'x' * 99999999999 }}", "");
  expect_refused("{{ [0] * 99999999999 }}", "");
  expect_refused("{{ 'x'.ljust(99999999999) }}", "");
  expect_refused("{{ 'x'.center(9223372036854775807) }}", "");
  expect_refused("{{ '%99999999999d' | format(1) }}", "");
  expect_refused("{{ '{:99999999999}'.format(1) }}", "");
  expect_refused("{{ 'x' | indent(99999999999) }}{{ 'a\nb' | indent(99999999999) }}", "");
  expect_refused("{{ [1] | batch(99999999999, 'x') | list }}{{ 'a' | indent('x' * 90000000) }}",
                 "");
  expect_refused("{{ [1] | slice(99999999999) | list }}", "");
  expect_refused("{{ range(99999999999) | list }}", "");
  expect_refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "");
  expect_refused("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "");
  expect_refused("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "");
  expect_refused("{{ " + std::string(200000, '(') + "1 }}", "");
  expect_refused("{{ " + std::string(100000, '[') + std::string(100000, ']') + " }}", "");
  for (const char* chain : {"not ", "- ", "1 + ", "x ~ ", "2 ** ", "1 if 1 else ", "x and "}) {
    std::string text = "{{ ";
    for (int i = 0; i < 100000; i++) text += chain;
    expect_refused(text + "1 }}", "");
  }
  for (const char* tag :
       {"{% if true %}", "{% for x in [] %}", "{% set x %}", "{% filter trim %}"}) {
    std::string text;
    for (int i = 0; i < 100000; i++) text += tag;
    expect_refused(text, "");
    text.resize(text.size() / 20);
    expect_refused(text, "");
  }
  std::string chain = "{% if x %}";
  for (int i = 0; i < 100000; i++) chain += "{% elif x %}";
  expect_refused(chain + "{% endif %}", "");
  expect_refused("{% include '/etc/passwd' %}", "");
  expect_refused("{% import '/etc/passwd' as x %}{{ x }}", "");
  expect_refused("{% extends '/etc/passwd' %}", "");
  expect_refused("{% include 'chat template' %}", "");
  expect_refused("{{ messages.__class__.__mro__ }}", "");
  expect_refused("{{ raise_exception('no') }}", "refuses the conversation: no");
  expect_refused(std::string(5 << 20, 'x'), "bytes");
  expect_refused("{% generation %}x", "");
  expect_refused("{% endgeneration %}", "");
  expect_refused("{% generation %}{{ '\U0010ffff' }}{% endgeneration %}", "");
}

// Inputs that hold the characters used for marking don't disturb the spans.
TEST(ChatTemplate, GenerationSpansSurviveAnyContent) {
  const ChatTemplate chat_template = ChatTemplate::from_string(
      "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}", {});
  for (const std::string text : {"plain", "", "\U0010FFFE", "\U0010FFFF\U0010FFFE",
                                 "\U0010FFFEa\U000FFFFE", "\xEF\xBF\xBF"}) {
    const Json chat = Json::array(
        {Json{{"role", "user"}, {"content", text}}, Json{{"role", "user"}, {"content", "b"}}});
    const Rendered rendered = chat_template.render(chat);
    EXPECT_EQ(rendered.text, text + "|b|");
    const auto n = static_cast<int64_t>(text.size());
    EXPECT_EQ(rendered.generation, (std::vector<ByteRange>{{0, n}, {n + 1, n + 2}}));
  }
}

// The largest that is accepted does not overflow the stack either.
TEST(ChatTemplate, LongTemplatesWork) {
  std::string chain = "{% if x %}";
  for (int i = 0; i < 9000; i++) chain += "{% elif x %}";
  std::string sum = "{{ 0";
  for (int i = 0; i < 1900; i++) sum += " + 1";
  const std::string source = chain + "{% endif %}" + sum + " }}";
  const ChatTemplate chat_template = ChatTemplate::from_string(source, {});
  EXPECT_EQ(chat_template.render(Json::array()).text, "1900");
}

TEST(ChatTemplate, ClockIsTheCallers) {
  const ChatTemplate chat_template =
      ChatTemplate::from_string("{{ strftime_now('%Y-%m') }}{{ strftime_now('') }}", {});
  RenderOptions options;
  options.now = 1700000000;  // in November 2023 in every time zone
  EXPECT_EQ(chat_template.render(Json::array(), options).text, "2023-11");
}

TEST(ChatTemplate, WhereItIsLookedFor) {
  const text_test::TempFolder folder;
  folder.write("tokenizer.json", text_test::own_tokenizer("fallback")["tokenizer"].dump());
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  const Json chat = Json::parse(R"([{"role": "user", "content": "x"}])");
  RenderOptions with_tools;
  with_tools.tools = Json::array({Json::object()});
  auto render = [&](const RenderOptions& options) {
    return ChatTemplate::load(folder.path(), tokenizer).render(chat, options).text;
  };

  EXPECT_FALSE(ChatTemplate::exists(folder.path()));
  EXPECT_THROW(ChatTemplate::load(folder.path(), tokenizer), UserError);
  folder.write("chat_template.json", R"({"chat_template": "old"})");
  EXPECT_EQ(render({}), "old");
  folder.write("tokenizer_config.json", R"({"chat_template": "config {{ bos_token }}"})");
  EXPECT_EQ(render({}), "config ");
  folder.write("tokenizer_config.json",
               R"({"chat_template": [{"name": "default", "template": "plain"},
                                     {"name": "tool_use", "template": "tools"},
                                     {"name": "rag", "template": "rag"}]})");
  EXPECT_EQ(render({}), "plain");
  EXPECT_EQ(render(with_tools), "tools");
  EXPECT_EQ(ChatTemplate::names(folder.path()),
            (std::vector<std::string>{"default", "rag", "tool_use"}));
  const ChatTemplate rag = ChatTemplate::load(folder.path(), tokenizer, "rag");
  EXPECT_EQ(rag.render(chat, with_tools).text, "rag");
  EXPECT_THROW(ChatTemplate::load(folder.path(), tokenizer, "none"), UserError);
  // Which of two is not guessed; the only one serves.
  folder.write("tokenizer_config.json",
               R"({"chat_template": {"tool_use": "tools", "rag": "rag"}})");
  EXPECT_FALSE(ChatTemplate::exists(folder.path()));
  EXPECT_THROW(ChatTemplate::load(folder.path(), tokenizer), UserError);
  EXPECT_EQ(ChatTemplate::load(folder.path(), tokenizer, "tool_use").render(chat, {}).text,
            "tools");
  folder.write("tokenizer_config.json", R"({"chat_template": {"mine": "one"}})");
  EXPECT_EQ(render({}), "one");
  folder.write("chat_template.jinja", "jinja");
  EXPECT_EQ(render({}), "jinja");
  EXPECT_EQ(render(with_tools), "jinja");
  EXPECT_TRUE(ChatTemplate::exists(folder.path()));
  for (const char* broken : {"[1]", "{", R"({"chat_template": 3})", R"({"chat_template": [3]})",
                             R"({"chat_template": [{"name": 1, "template": "x"}]})",
                             R"({"chat_template": [{"name": "default", "template": 1}]})"}) {
    std::filesystem::remove(folder.path() + "/chat_template.jinja");
    folder.write("tokenizer_config.json", broken);
    EXPECT_THROW(ChatTemplate::load(folder.path(), tokenizer), UserError) << broken;
  }
}

}  // namespace
}  // namespace hone
