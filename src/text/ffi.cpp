#include "text/ffi.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "core/error.h"

namespace hone::text_ffi {

std::string_view Reader::take(size_t n) {
  HONE_CHECK(n <= rest_.size(), "a result of hf_text is too short");
  std::string_view head = rest_.substr(0, n);
  rest_.remove_prefix(n);
  return head;
}

uint32_t Reader::u32() {
  uint32_t value;
  std::memcpy(&value, take(sizeof(value)).data(), sizeof(value));
  return value;
}

uint64_t Reader::u64() {
  uint64_t value;
  std::memcpy(&value, take(sizeof(value)).data(), sizeof(value));
  return value;
}

bool read_file_if_exists(const std::string& path, std::string* out) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return false;
  if (!std::filesystem::is_regular_file(path, error)) {
    user_error("text", "{} is not a file", path);
  }
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) runtime_error("text", "can't open {}: {}", path, std::strerror(errno));
  out->clear();
  char block[1 << 16];
  size_t n;
  while ((n = std::fread(block, 1, sizeof(block), file.get())) > 0) out->append(block, n);
  if (std::ferror(file.get()))
    runtime_error("text", "can't read {}: {}", path, std::strerror(errno));
  return true;
}

}  // namespace hone::text_ffi
