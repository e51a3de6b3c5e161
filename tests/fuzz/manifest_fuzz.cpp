// A checkpoint's manifest.json.
#include "fuzz/fuzz.h"
#include "io/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hone::fuzz::accepted([&] {
    const auto manifest =
        hone::io::parse_manifest(std::string(hone::fuzz::text_of(data, size)), "fuzz");
    for (const auto& tensor : manifest.tensors) {
      for (const auto& piece : tensor.pieces) {
        hone::fuzz::require(piece.file.find('/') == std::string::npos, "a file outside the folder");
        hone::fuzz::require(
            piece.shape.size() == tensor.shape.size() && piece.offset.size() == tensor.shape.size(),
            "a piece of another rank");
        for (size_t i = 0; i < tensor.shape.size(); ++i) {
          hone::fuzz::require(
              piece.offset[i] >= 0 && piece.shape[i] <= tensor.shape[i] - piece.offset[i],
              "a piece outside its tensor");
        }
      }
    }
  });
  return 0;
}
