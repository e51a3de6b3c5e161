// model.safetensors.index.json.
#include "fuzz/fuzz.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hone::fuzz::accepted([&] {
    const auto map =
        hone::io::parse_safetensors_index(std::string(hone::fuzz::text_of(data, size)), "fuzz");
    for (const auto& [tensor, file] : map) {
      hone::fuzz::require(!file.empty() && file != "." && file != ".." &&
                              file.find('/') == std::string::npos &&
                              file.find('\0') == std::string::npos,
                          "a shard outside the folder");
    }
  });
  return 0;
}
