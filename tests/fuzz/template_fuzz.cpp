// A chat template and a conversation for it: Jinja text, a zero byte, JSON. Rendering and the exact
// mask, with a byte-level tokenizer.
#include "data/format.h"
#include "data/record_json.h"
#include "data_test_util.h"
#include "fuzz/fuzz.h"
#include "text/conversation.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const hone::Tokenizer tokenizer = hone::Tokenizer::from_json(
      hone::data_test::byte_tokenizer_json(), hone::data_test::byte_tokenizer_config_json());
  const std::string_view input = hone::fuzz::text_of(data, size);
  const size_t zero = input.find('\0');
  const std::string_view source = input.substr(0, zero);
  if (hone::data::find_invalid_utf8(input) != std::string_view::npos) return 0;
  hone::Json messages =
      hone::Json::parse(R"([{"role":"system","content":"s"},{"role":"user","content":"a"},)"
                        R"({"role":"assistant","content":"b"}])");
  if (zero != std::string_view::npos) {
    try {
      hone::Json json = hone::data::parse_json_record(input.substr(zero + 1));
      if (json.is_array() || json.is_object()) messages = std::move(json);
    } catch (const hone::data::RecordError&) {
    }
  }
  hone::fuzz::accepted([&] {
    const auto chat_template = hone::ChatTemplate::from_string(source, tokenizer.special_tokens());
    hone::ConversationEncoder::Options options;
    options.render.now = 1700000000;
    const hone::ConversationEncoder encoder(tokenizer, chat_template, options);
    hone::fuzz::accepted([&] {
      const auto encoded = encoder.encode(messages);
      hone::fuzz::require(encoded.tokens.size() == encoded.trained.size(), "marks as tokens");
      hone::fuzz::require(encoded.trained.empty() || encoded.trained[0] == 0, "token 0 trained");
      size_t begin = 0;
      for (const int32_t length : encoded.lengths) {
        hone::fuzz::require(length >= 0 && begin <= encoded.tokens.size() - length, "lengths");
        hone::fuzz::require(length == 0 || encoded.trained[begin] == 0, "a first token trained");
        begin += static_cast<size_t>(length);
      }
      hone::fuzz::require(encoded.lengths.empty() || begin == encoded.tokens.size(), "lengths");
    });
    hone::fuzz::accepted([&] { encoder.render(messages, true); });
  });
  return 0;
}
