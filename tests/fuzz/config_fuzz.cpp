// A model's config.json. What is accepted can be written and read again.
#include "fuzz/fuzz.h"
#include "models/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hone::models::ModelConfig config;
  if (!hone::fuzz::accepted([&] {
        config =
            hone::models::parse_model_config(std::string(hone::fuzz::text_of(data, size)), "fuzz");
      })) {
    return 0;
  }
  hone::fuzz::require(config.vocab_size > 0 && config.hidden_size > 0 && config.head_dim > 0 &&
                          config.num_hidden_layers > 0 && config.num_key_value_heads > 0 &&
                          config.num_attention_heads % config.num_key_value_heads == 0,
                      "sizes that make no model");
  const std::string written = hone::models::model_config_json(config);
  const auto again = hone::models::parse_model_config(written, "written");
  hone::fuzz::require(again.hidden_size == config.hidden_size &&
                          again.head_dim == config.head_dim &&
                          again.ropes.front().theta == config.ropes.front().theta,
                      "another config after writing and reading");
  return 0;
}
