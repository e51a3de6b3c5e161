// One record of a data set: JSON, then its interpretation in every format. The first byte chooses
// the format and whether columns are renamed.
#include "data/format.h"
#include "data/record_json.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const std::string source = "{% if message.role == 'judge' %}{% endif %}";
  hone::data::FormatRules rules;
  rules.format = static_cast<hone::data::DatasetFormat>(data[0] % 8);
  rules.template_takes_reasoning = (data[0] & 64) != 0;
  rules.template_source = &source;
  if ((data[0] & 128) != 0) {
    hone::data::Columns columns;
    columns.prompt = "p";
    columns.response = "r";
    columns.messages = "m";
    columns.role_tag = "from";
    columns.content_tag = "value";
    columns.roles = {{"human", "user"}, {"gpt", "assistant"}};
    rules.columns = columns;
  }
  hone::fuzz::accepted([&] {
    try {
      const auto json = hone::data::parse_json_record(hone::fuzz::text_of(data + 1, size - 1));
      const auto record = hone::data::interpret_record(json, rules);
      hone::fuzz::require(record.trained.empty() || record.trained.size() == record.tokens.size(),
                          "as many marks as tokens");
      for (const int32_t token : record.tokens) {
        hone::fuzz::require(token >= 0, "a token below 0");
      }
    } catch (const hone::data::RecordError&) {
    }
  });
  return 0;
}
