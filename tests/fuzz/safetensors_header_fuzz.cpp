// The safetensors header. The input is a file as it is; and, so that mutations get past the first
// eight bytes, also a header's text behind two bytes that choose the size of the data.
#include <cstring>
#include <vector>

#include "fuzz/fuzz.h"
#include "io/safetensors.h"

namespace {

void check(std::span<const std::byte> prefix, uint64_t file_size) {
  hone::fuzz::accepted([&] {
    const auto header = hone::io::parse_safetensors_header(prefix, file_size, "fuzz");
    uint64_t end = header.data_begin;
    for (const auto& tensor : header.tensors) {
      hone::fuzz::require(tensor.offset == end, "a hole or an overlap");
      hone::fuzz::require(tensor.bytes <= file_size - tensor.offset, "a tensor outside the file");
      uint64_t bytes = hone::io::file_type_size(tensor.type);
      for (const int64_t dim : tensor.shape) {
        hone::fuzz::require(!__builtin_mul_overflow(bytes, dim, &bytes), "an overflowing shape");
      }
      hone::fuzz::require(bytes == tensor.bytes, "a size that does not match the shape");
      end = tensor.offset + tensor.bytes;
    }
    hone::fuzz::require(end == file_size, "bytes behind the last tensor");
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  check({reinterpret_cast<const std::byte*>(data), size}, size);
  if (size < 2) return 0;
  const uint64_t length = size - 2;
  std::vector<std::byte> file(8 + length);
  std::memcpy(file.data(), &length, 8);
  if (length > 0) std::memcpy(file.data() + 8, data + 2, length);
  check(file, file.size() + data[0] + 256u * data[1]);
  return 0;
}
