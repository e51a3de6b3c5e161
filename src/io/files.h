// Files: read-only maps, bounded reads, and writes that leave either the old content or the new,
// never a mixture. A failure of the disk or of permissions while writing is a RuntimeError that
// names the path, what was needed and what is left; nothing that existed is touched and temporary
// files are removed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace hone::io {

// A whole file mapped read-only. An empty file has size() 0 and data() null. UserError if the path
// is missing, a folder or unreadable.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  // Hints for [offset, offset + length), rounded to pages; failures are ignored.
  enum class Advice { sequential, will_need, dont_need, huge_pages };
  void advise(Advice advice, size_t offset, size_t length) const;
  void advise(Advice advice) const { advise(advice, 0, size_); }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A file being written beside its final place, under a temporary name in the same folder. commit()
// makes it durable (fsync), renames it into place and makes the rename durable. Without commit()
// the destructor removes the temporary file.
class AtomicFile {
 public:
  // expected_bytes > 0 reserves the space first, so that a full disk is known before anything is
  // written.
  explicit AtomicFile(const std::filesystem::path& path, uint64_t expected_bytes = 0);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void append(std::span<const std::byte> bytes);
  void append(std::string_view text) { append(std::as_bytes(std::span(text.data(), text.size()))); }
  // Does not move the end that append() writes at.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void commit();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  uint64_t end_ = 0;
  uint64_t expected_ = 0;
};

// The whole text of a file of at most max_bytes. UserError if missing, unreadable or longer.
std::string read_text_file(const std::filesystem::path& path, uint64_t max_bytes);

// Replaces or creates path with content, durably and atomically.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

// Makes the entries of a folder (creations, renames, removals) durable.
void sync_folder(const std::filesystem::path& folder);

// A copy that is written atomically; an existing target is replaced.
void copy_file_atomically(const std::filesystem::path& from, const std::filesystem::path& to);

// A 64-bit hash for finding damage, not for security. Equal on every machine (little endian words).
// Feeding a range in pieces gives the same value as at once.
class ContentHash {
 public:
  void update(std::span<const std::byte> bytes);
  uint64_t value() const;

 private:
  void words(const std::byte* at, size_t count);  // of 32 bytes
  uint64_t lanes_[4] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full, 0x165667b19e3779f9ull,
                        0x27d4eb2f165667c5ull};
  std::byte tail_[32] = {};
  size_t tail_size_ = 0;
  uint64_t length_ = 0;
};

uint64_t content_hash(std::span<const std::byte> bytes);

}  // namespace hone::io
