// A whole data file through a byte-level tokenizer and ChatML: container, records, template, mask.
#include <sys/mman.h>
#include <unistd.h>

#include "data_test_util.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const hone::data::TextModel text = hone::data_test::byte_text_model();
  static const int file = memfd_create("data.jsonl", 0);
  hone::fuzz::require(file >= 0 && ftruncate(file, 0) == 0 &&
                          pwrite(file, data, size, 0) == static_cast<ssize_t>(size),
                      "the fuzzer's own file");
  hone::data::DatasetOptions options;
  options.paths = {"/proc/self/fd/" + std::to_string(file)};
  options.max_length = 64;
  options.vocab_limit = 259;
  options.threads = 1;
  options.warn = [](const std::string&) {};
  hone::fuzz::accepted([&] {
    const auto dataset = hone::data::Dataset::open(text, options);
    for (int64_t i = 0; i < std::min<int64_t>(dataset->size(), 16); ++i) {
      hone::fuzz::accepted([&] {
        const auto sample = dataset->get(i);
        hone::fuzz::require(sample.tokens.size() == sample.trained.size(), "marks as tokens");
        int64_t begin = 0;
        for (int64_t s = 0; s < sample.sequences(); ++s) {
          const int64_t size =
              sample.lengths.empty() ? sample.size() : sample.lengths[static_cast<size_t>(s)];
          hone::fuzz::require(size <= 64, "a sequence longer than asked for");
          hone::fuzz::require(size == 0 || sample.trained[static_cast<size_t>(begin)] == 0,
                              "the first token of a sequence trained");
          begin += size;
        }
        hone::fuzz::require(begin == sample.size(), "lengths as tokens");
        int64_t trained = 0;
        for (size_t t = 0; t < sample.tokens.size(); ++t) {
          hone::fuzz::require(sample.tokens[t] >= 0 && sample.tokens[t] < 259, "an id outside");
          trained += sample.trained[t];
        }
        hone::fuzz::require(trained == sample.trained_count, "a wrong count");
      });
    }
  });
  return 0;
}
