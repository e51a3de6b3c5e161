// A file of records and the index of where each one lies. Only this header's readers touch data
// files; everything is read with pread into bounded buffers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace hone::data {

// A fault inside one record; the caller knows the file and the line.
class RecordError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// 64-bit hash of bytes, for telling contents apart (not for security). Pieces may be fed in any
// split.
class Fingerprint {
 public:
  void add(std::string_view bytes);  // bytes of one stream
  void add_value(uint64_t value);    // ends the stream before
  void add_text(std::string_view text) {
    add_value(text.size());
    add(text);
  }
  uint64_t value() const;

 private:
  void word(uint64_t w);
  uint64_t state_[4] = {0x243f6a8885a308d3ull, 0x13198a2e03707344ull, 0xa4093822299f31d0ull,
                        0x082efa98ec4e6c89ull};
  unsigned char tail_[8] = {};
  size_t tail_size_ = 0;
  uint64_t length_ = 0;
};

// Offset and length of each record, in blocks so that growing never copies: 12 bytes a record.
class RangeIndex {
 public:
  void push(uint64_t begin, uint32_t length);
  int64_t size() const { return size_; }
  uint64_t begin(int64_t i) const { return blocks_[i >> kShift]->begin[i & kMask]; }
  uint32_t length(int64_t i) const { return blocks_[i >> kShift]->length[i & kMask]; }
  int64_t memory_bytes() const;

 private:
  static constexpr int kShift = 14;
  static constexpr int64_t kMask = (int64_t{1} << kShift) - 1;
  struct Block {
    uint64_t begin[size_t{1} << kShift];
    uint32_t length[size_t{1} << kShift];
  };
  std::vector<std::unique_ptr<Block>> blocks_;
  int64_t size_ = 0;
};

enum class Container {
  kLines,  // a JSON value a line
  kArray,  // one JSON array of records
  kText,   // running text, cut into pieces
};

struct SourceOptions {
  int64_t max_record_bytes = int64_t{16} << 20;
  int64_t text_piece_bytes = 3 * 8192;  // longest piece of running text
  bool text = false;                    // what isn't JSON by its name is running text
};

// Immutable after opening; read() may be called from many threads at once.
class Source {
 public:
  // Finds the container and indexes the file in one pass. UserError.
  Source(const std::string& path, const SourceOptions& options);
  ~Source();
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const std::string& path() const { return path_; }
  Container container() const { return container_; }
  int64_t size() const { return index_.size(); }
  int64_t bytes() const { return bytes_; }
  uint64_t content_hash() const { return content_hash_; }
  int64_t memory_bytes() const { return index_.memory_bytes(); }

  // The bytes of record i, blanks around it left out. RuntimeError if the file changed.
  void read(int64_t i, std::string& out) const;
  // Line of record i's first byte, from 1. Reads the file again.
  int64_t line(int64_t i) const;

 private:
  void find_container(const SourceOptions& options);
  template <class F>
  void scan(F&& on_chunk);
  void index_lines(int64_t max_bytes);
  void index_array(int64_t max_bytes);
  void index_text(int64_t piece_bytes);
  void check_unchanged() const;
  size_t read_at(uint64_t offset, char* to, size_t n) const;
  int64_t line_of_offset(uint64_t offset) const;
  [[noreturn]] void too_long(uint64_t begin, uint64_t length, int64_t line, int64_t max) const;

  std::string path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
  int64_t mtime_ns_ = 0;
  uint64_t start_ = 0;  // after a byte order mark
  Container container_ = Container::kLines;
  uint64_t content_hash_ = 0;
  RangeIndex index_;
};

// Offset of the first byte that is no part of valid UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

}  // namespace hone::data
