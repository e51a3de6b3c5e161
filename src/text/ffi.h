// The C functions of rust/hf_text (its src/lib.rs states their contracts), and their errors as
// exceptions. Only for the .cpp files of this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

extern "C" {
struct HftSlice {
  const uint8_t* data;
  size_t len;
};
struct HftBuffer {
  uint8_t* data;
  size_t len;
};
struct HftTokenizer;
struct HftTemplate;
struct HftExpression;
struct HftPrefix {
  uint64_t count;
  int32_t add_generation_prompt;
};
using HftStrftime = size_t (*)(int64_t now, const uint8_t* format, size_t format_len, uint8_t* out,
                               size_t cap);

void hft_free(HftBuffer buffer);
int32_t hft_tokenizer_new(HftSlice json, HftSlice config, HftSlice special_tokens_map,
                          HftTokenizer** handle, HftBuffer* out);
void hft_tokenizer_free(HftTokenizer* handle);
int32_t hft_encode(const HftTokenizer* handle, const HftSlice* texts, size_t n,
                   bool add_special_tokens, uint64_t* counts, HftBuffer* out);
int32_t hft_decode(const HftTokenizer* handle, const uint32_t* ids, size_t n,
                   bool skip_special_tokens, HftBuffer* out);
int32_t hft_train_bpe(const HftSlice* texts, size_t n, HftSlice options, HftBuffer* out);
int32_t hft_template_new(HftSlice source, HftTemplate** handle, int32_t* has_generation,
                         HftBuffer* out);
void hft_template_free(HftTemplate* handle);
int32_t hft_template_render(const HftTemplate* handle, HftSlice messages, HftSlice variables,
                            int64_t now, HftStrftime strftime, const HftPrefix* prefixes, size_t n,
                            HftBuffer* out);
int32_t hft_expression_new(HftSlice pattern, HftExpression** handle, HftBuffer* out);
void hft_expression_free(HftExpression* handle);
int32_t hft_expression_matches(const HftExpression* handle, HftSlice text);
}

namespace hone::text_ffi {

inline HftSlice slice(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Owns a result.
class Result {
 public:
  Result() = default;
  Result(const Result&) = delete;
  Result& operator=(const Result&) = delete;
  ~Result() {
    if (buffer_.data != nullptr) hft_free(buffer_);
  }
  HftBuffer* out() { return &buffer_; }
  std::string_view view() const {
    return {reinterpret_cast<const char*>(buffer_.data), buffer_.len};
  }

 private:
  HftBuffer buffer_{nullptr, 0};
};

// Reads numbers and strings off a result. The library writes what is read here, so running off
// its end is a bug.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  bool done() const { return rest_.empty(); }
  std::string_view take(size_t n);
  uint32_t u32();
  uint64_t u64();

 private:
  std::string_view rest_;
};

// The bytes of a file, or nullopt where there is none; RuntimeError where it can't be read.
bool read_file_if_exists(const std::string& path, std::string* out);

}  // namespace hone::text_ffi
