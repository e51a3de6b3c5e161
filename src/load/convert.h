// From one format of weights to another, tensor by tensor.
#pragma once

#include <functional>
#include <string>

#include "io/safetensors.h"
#include "load/source.h"

namespace hone::load {

// The scales beside a matrix of fp8_block.
io::TensorDecl scales_of(const io::TensorDecl& values);

struct ConvertReport {
  int64_t tensors = 0, converted = 0;    // all, and those whose numbers got another format
  std::vector<std::string> unconverted;  // modules whose matrices stayed as they are
  // Of a lossy target: of the numbers over the largest one of their matrix.
  double largest_error = 0, mean_error = 0;
  uint64_t bytes_before = 0, bytes_after = 0;
};

struct ConvertOptions {
  Format to = Format::bf16;  // bf16, f32 or fp8_block
  uint64_t max_shard_bytes = 5'000'000'000ull;
  std::function<void(const std::string&)> progress;  // a tensor is begun
};

// Writes the weights of a folder to another one. To fp8_block go the matrices of the linear layers
// of blocks, all else stays as it is; to plain formats go all numbers, scales go. A file that an
// earlier call left in place is kept. What was written is read again and compared. RuntimeError for
// what came back different.
ConvertReport convert_weights(const io::CheckpointReader& from, const std::filesystem::path& to,
                              const ConvertOptions& options, ThreadPool& pool);

}  // namespace hone::load
