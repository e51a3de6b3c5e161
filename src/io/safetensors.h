// The safetensors format: reading (mapped, checked hard, hostile files expected), writing
// (streaming, atomic), and model folders of one file or of shards with an index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/dtype.h"
#include "io/files.h"

namespace hone {
class ThreadPool;
}

namespace hone::io {

// Element types that a safetensors file can name.
enum class FileType : uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  f8_e4m3,
  f8_e5m2
};
size_t file_type_size(FileType type);
std::string_view file_type_name(FileType type);  // "F32", as in the file
std::optional<FileType> file_type_from_name(std::string_view name);
std::optional<DType> to_dtype(FileType type);  // null: the engine has no such type
FileType to_file_type(DType type);

struct TensorEntry {
  std::string name;
  FileType type = FileType::f32;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // absolute, in the file
  uint64_t bytes = 0;
  const std::byte* data = nullptr;  // aligned to one element; valid while the file object lives

  int64_t elements() const;
};

struct SafetensorsHeader {
  std::vector<TensorEntry>
      tensors;  // in the order of their offsets; data is null, offset is absolute
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;  // absolute: 8 + header length
};

// Checks prefix (the first 8 + header length bytes of a file, or more) against the whole rule of
// the format: a header of at most 100 MB inside the file, one JSON object, known types, shapes
// whose product does not overflow, ranges inside the file that match shape and type, no overlap, no
// hole, no trailing byte, no name twice, string metadata. Throws UserError with source, tensor,
// numbers and what to do.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> prefix, uint64_t file_size,
                                           const std::string& source);

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  const TensorEntry* find(std::string_view name) const;  // null: absent
  const TensorEntry& at(std::string_view name) const;    // UserError: absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }
  const MappedFile& map() const { return map_; }
  // Bytes of tensors that the file stores at an address unfit for their type and that were
  // therefore copied.
  uint64_t copied_bytes() const { return copied_bytes_; }

 private:
  std::filesystem::path path_;
  MappedFile map_;
  std::vector<TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
  std::unordered_map<std::string_view, size_t> by_name_;  // views into tensors_
  std::vector<std::unique_ptr<std::byte[]>> copies_;
  uint64_t copied_bytes_ = 0;
};

// The weights of a model folder: model.safetensors, or model.safetensors.index.json and the shards
// it names. Mapped, not read: costs memory only for what is touched.
class CheckpointReader {
 public:
  // UserError for: no weights, only pytorch_model.bin, an index that is malformed or names files
  // outside the folder, missing shards, tensors that the index promises and the shard lacks, and
  // the other way round.
  static CheckpointReader open(const std::filesystem::path& folder);

  const TensorEntry* find(std::string_view name) const;
  const TensorEntry& at(std::string_view name) const;  // UserError naming near matches
  std::vector<std::string> names() const;              // sorted
  const std::vector<SafetensorsFile>& files() const { return files_; }
  const SafetensorsFile& file_of(std::string_view name) const;
  const std::filesystem::path& folder() const { return folder_; }
  uint64_t total_bytes() const;  // of tensors

  // From now on these tensors have other names (name -> new name), all at once, also in their
  // entries. No two get the same.
  void rename(const std::map<std::string, std::string>& names);
  // As if the tensor weren't there.
  void leave_out(std::string_view name) { by_name_.erase(name); }

 private:
  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::unique_ptr<TensorEntry>> renamed_;
  std::unordered_map<std::string_view, std::pair<size_t, const TensorEntry*>> by_name_;
};

// The weight_map of an index text: tensor -> shard file name (a plain name). Throws UserError.
std::map<std::string, std::string> parse_safetensors_index(const std::string& json_text,
                                                           const std::string& source);

// Tells weights apart for a resume, not for security: a hash of all names, types and shapes and of
// the first and last bytes of each tensor, so that little is read.
std::string weights_fingerprint(const std::filesystem::path& folder);

struct NonFinite {
  int64_t first = 0;  // element
  int64_t count = 0;
  float value = 0;  // of the first
};
// NaN or infinity in a floating-point tensor; null: none, or not a floating-point type. Runs at
// memory speed.
std::optional<NonFinite> find_nonfinite(const TensorEntry& tensor);
// UserError for a tensor of a file that holds any.
void refuse_nonfinite(const TensorEntry& tensor, const std::filesystem::path& file);
// The same for these tensors of a checkpoint, or all of them, on all threads. Throws UserError
// naming the first bad one (of all: in name order).
void check_finite(const CheckpointReader& checkpoint, std::span<const std::string> names,
                  ThreadPool& pool);
void check_finite(const CheckpointReader& checkpoint, ThreadPool& pool);

// Converts count elements of a floating-point tensor from element `first` on to fp32. UserError for
// other types.
void read_as_float(const TensorEntry& tensor, int64_t first, std::span<float> out);

struct TensorDecl {
  std::string name;
  FileType type = FileType::f32;
  std::vector<int64_t> shape;

  uint64_t bytes() const;
};

// Writes one file. Layout: larger elements first, then in the order declared, so every tensor is
// aligned. Tensors may be written in any order and in pieces; finish() checks that each byte was
// given once.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorDecl> tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  // A whole tensor, or its next bytes.
  void write(std::string_view name, std::span<const std::byte> bytes);
  void finish();  // durable and in place after this
  uint64_t file_bytes() const { return file_bytes_; }

 private:
  struct Slot {
    TensorDecl decl;
    uint64_t offset = 0;
    uint64_t written = 0;
  };
  std::vector<Slot> slots_;
  std::unordered_map<std::string, size_t> by_name_;
  std::unique_ptr<AtomicFile> file_;
  uint64_t file_bytes_ = 0;
};

// Writes a model folder: model.safetensors if all fits into max_shard_bytes, else
// model-00001-of-0000N.safetensors and model.safetensors.index.json (written last). Files of an
// earlier layout are removed after the new ones are in place. Tensors are given in the order
// declared.
class ModelWriter {
 public:
  // together: all files come into place in finish(). one_by_one: each as soon as it is whole, and
  // one that is in place already, with the same tensors, is kept: its tensors aren't written again.
  enum class Files { together, one_by_one };
  ModelWriter(const std::filesystem::path& folder, std::vector<TensorDecl> tensors,
              uint64_t max_shard_bytes = 5'000'000'000ull, Files files = Files::together);
  bool in_place(std::string_view name) const;
  void write(std::string_view name, std::span<const std::byte> bytes);
  void finish();

 private:
  std::filesystem::path folder_;
  std::vector<std::vector<TensorDecl>> shards_;
  std::vector<std::string> files_;
  std::unordered_map<std::string, size_t> shard_of_;
  std::vector<std::unique_ptr<SafetensorsWriter>> writers_;  // null: in place
  Files mode_;
  std::vector<uint64_t> left_;  // bytes to be written of each file
  uint64_t total_bytes_ = 0;
  uint64_t total_parameters_ = 0;
};

}  // namespace hone::io
