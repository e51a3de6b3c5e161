// PEFT's adapter_config.json, its patterns applied to names of layers, and names of its tensors.
#include "fuzz/fuzz.h"
#include "io/peft.h"
#include "io/peft_targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(hone::fuzz::text_of(data, size));
  if (const auto name = hone::io::parse_adapter_tensor_name(text)) {
    hone::fuzz::require(hone::io::adapter_tensor_name(name->module, name->side) == text,
                        "a tensor's name that is written differently");
  }
  hone::fuzz::accepted([&] {
    const auto config = hone::io::parse_adapter_config(text, "fuzz");
    const hone::io::AdapterRules rules(config);
    for (const char* module :
         {"model.layers.0.self_attn.q_proj", "model.layers.31.mlp.down_proj", "lm_head"}) {
      rules.targets(module);
      hone::fuzz::require(rules.rank_of(module) > 0, "a rank below 1");
      (void)rules.scale_of(module);
    }
    hone::io::parse_adapter_config(hone::io::adapter_config_json(config), "written");
  });
  return 0;
}
