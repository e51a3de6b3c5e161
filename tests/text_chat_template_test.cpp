// Chat templates against golden renderings, and against hostile ones.
#include "text/chat_template.h"

#include "core/error.h"
#include "text_test_util.h"

namespace hone {
namespace {

using text_test::assets;
using text_test::read_file;

TEST(ChatTemplate, GoldenRenderings) {
  HONE_NEEDS_ASSETS();
  const Json goldens = Json::parse(read_file(assets() + "/chat-templates/goldens.json"));
  const Json& conversation = goldens["conversation"];
  int checked = 0;
  for (const Json& item : goldens["cases"]) {
    RenderOptions options;
    options.add_generation_prompt = goldens["add_generation_prompt"].get<bool>();
    std::map<std::string, std::string, std::less<>> special;
    for (const char* role : {"bos_token", "eos_token"}) {
      if (item.contains(role)) special[role] = item[role].get<std::string>();
    }
    const std::string jinja = item.value("expected_output_jinja", "");
    const std::string want = jinja.empty() ? item["expected_output"].get<std::string>() : jinja;
    const std::string name = item["name"];
    try {
      const ChatTemplate chat_template =
          ChatTemplate::from_string(item["template_str"].get<std::string>(), special);
      EXPECT_EQ(chat_template.render(conversation, options).text, want) << name;
    } catch (const std::exception& error) {
      ADD_FAILURE() << name << ": " << error.what();
    }
    checked++;
  }
  EXPECT_GT(checked, 30);
}

}  // namespace
}  // namespace hone
