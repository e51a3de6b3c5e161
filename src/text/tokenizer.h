// A Hugging Face tokenizer: tokenizer.json with what tokenizer_config.json and
// special_tokens_map.json say of special tokens. Nothing is padded or truncated, whatever
// tokenizer.json asks for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hone {

// Bytes [begin, end) of a text.
struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const ByteRange&) const = default;
};

struct Encoding {
  std::vector<int32_t> ids;
  // One a token, ascending begin: the bytes of the text that the token stands for. Exact where a
  // character is cut into several tokens; where the tokenizer rewrites the text (normalisation)
  // the bytes of the characters it was made from. Empty for a token that stands for no text.
  std::vector<ByteRange> ranges;
};

// Immutable and cheap to copy. All const methods may be called from many threads at once.
class Tokenizer {
 public:
  // folder: a model folder; tokenizer.json is needed, the other two files are read if they exist.
  // UserError for a missing or broken file.
  static Tokenizer load(const std::string& folder);
  // The same from the texts of the files; "" = the file is absent.
  static Tokenizer from_json(std::string_view tokenizer_json, std::string_view config_json = "",
                             std::string_view special_tokens_map_json = "");

  // text: valid UTF-8, else UserError. add_special_tokens: what the tokenizer's post-processor
  // adds (a leading <s>, say). Special tokens written out in the text are always recognised.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = false) const;
  Encoding encode_with_ranges(std::string_view text, bool add_special_tokens = false) const;
  // Text by text, on the caller's thread; call it for chunks from several threads.
  std::vector<std::vector<int32_t>> encode_batch(std::span<const std::string_view> texts,
                                                 bool add_special_tokens = false) const;
  // As transformers decodes with clean_up_tokenization_spaces=False; bytes that are no UTF-8
  // become U+FFFD. An id without a token is a UserError.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;
  // The bytes a token stands for inside a text ("" for an id that has no token): bytes of
  // byte-level and byte-fallback tokens, the text of an added token.
  const std::string& token_bytes(int32_t id) const;

  int64_t vocab_size() const;  // number of tokens, added ones included
  int32_t max_id() const;      // the largest id; ids may have holes
  bool is_special(int32_t id) const;
  bool is_added(int32_t id) const;  // special or not
  std::optional<int32_t> id_of(std::string_view token) const;
  std::optional<std::string> token_of(int32_t id) const;  // as spelt in tokenizer.json

  // As transformers resolves them; nullopt where the tokenizer names none.
  std::optional<std::string> bos_token() const { return special_token("bos_token"); }
  std::optional<std::string> eos_token() const { return special_token("eos_token"); }
  std::optional<std::string> pad_token() const { return special_token("pad_token"); }
  std::optional<std::string> unk_token() const { return special_token("unk_token"); }
  std::optional<int32_t> bos_id() const { return special_id("bos_token"); }
  std::optional<int32_t> eos_id() const { return special_id("eos_token"); }
  std::optional<int32_t> pad_id() const { return special_id("pad_token"); }
  std::optional<int32_t> unk_id() const { return special_id("unk_token"); }
  std::optional<std::string> special_token(std::string_view role) const;
  std::optional<int32_t> special_id(std::string_view role) const;
  // Role ("bos_token", "eos_token", ...) to token text: what chat templates get as variables.
  const std::map<std::string, std::string, std::less<>>& special_tokens() const;
  // Size in bytes of what the tokenizer keeps in memory, roughly: for the memory plan.
  int64_t memory_bytes() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

struct BpeTrainerOptions {
  int64_t vocab_size = 4096;  // special tokens and the 256 bytes included
  int64_t min_frequency = 2;
  std::vector<std::string> special_tokens;  // get the ids 0, 1, ...
};
// Trains a byte-level BPE tokenizer on the texts, cut as Qwen2 cuts (words, single digits,
// punctuation); returns the text of a tokenizer.json. The same
// input gives the same tokenizer.
std::string train_bpe(std::span<const std::string_view> texts, const BpeTrainerOptions& options);

}  // namespace hone
