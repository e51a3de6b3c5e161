#include "models/quantization.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/json_fields.h"

namespace hone::models {

std::optional<Quantization> read_quantization(JsonFields& config, const std::string& source) {
  const std::string name = "quantization_config";
  const nlohmann::json* object = config.object(name);
  if (object == nullptr || object->empty()) return std::nullopt;
  JsonFields fields(*object, "config", source, name + ".");
  const std::string method = fields.text("quant_method").value_or("");
  if (method != "fp8") {
    fields.fail("quant_method",
                "this format of weights is not supported; supported are plain ones (fp32, bf16, "
                "fp16) and fp8 with weight_block_size [128, 128]");
  }
  const auto block = fields.integers("weight_block_size", 1, 1 << 20);
  if (!block || *block != std::vector<int64_t>{128, 128})
    fields.fail("weight_block_size", "only [128, 128] is supported");
  if (const auto kind = fields.text("fmt"); kind && *kind != "e4m3")
    fields.fail("fmt", "only e4m3 is supported");
  Quantization q;
  for (const char* list : {"modules_to_not_convert", "ignored_layers"}) {
    if (const auto names = fields.texts(list))
      q.unconverted.insert(q.unconverted.end(), names->begin(), names->end());
  }
  return q;
}

bool is_quantized(const Quantization& q, const std::string& module) {
  return std::none_of(q.unconverted.begin(), q.unconverted.end(), [&](const std::string& name) {
    return module == name || module.ends_with("." + name) || module.starts_with(name + ".");
  });
}

}  // namespace hone::models
