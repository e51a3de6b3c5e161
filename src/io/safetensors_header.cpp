// Parsing and checking of a safetensors header. The JSON is read by events, never as a tree, so
// that a hostile header of 100 MB costs memory for its entries only.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_fields.h"
#include "io/safetensors.h"

namespace hone::io {
namespace {

constexpr std::string_view kTag = "safetensors";
constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxDims = 16;
constexpr std::string_view kDamaged =
    "the file is damaged or was not written by a safetensors writer; fetch it again";

struct TypeInfo {
  FileType type;
  std::string_view name;
  size_t size;
};
constexpr std::array<TypeInfo, 15> kTypes = {{
    {FileType::f64, "F64", 8},
    {FileType::f32, "F32", 4},
    {FileType::f16, "F16", 2},
    {FileType::bf16, "BF16", 2},
    {FileType::i64, "I64", 8},
    {FileType::i32, "I32", 4},
    {FileType::i16, "I16", 2},
    {FileType::i8, "I8", 1},
    {FileType::u64, "U64", 8},
    {FileType::u32, "U32", 4},
    {FileType::u16, "U16", 2},
    {FileType::u8, "U8", 1},
    {FileType::boolean, "BOOL", 1},
    {FileType::f8_e4m3, "F8_E4M3", 1},
    {FileType::f8_e5m2, "F8_E5M2", 1},
}};

std::string in_quotes(const std::string& name) { return shown(nlohmann::json(name)); }

struct RawTensor {
  TensorEntry entry;
  uint64_t begin = 0, end = 0;
};

// Events of the JSON reader. Where: 0 outside, 1 in the top object, 2 in a tensor, 3 in the
// metadata, 4 in a list of a tensor.
class HeaderEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderEvents(const std::string& source) : source_(source) {}

  std::vector<RawTensor> tensors;
  std::map<std::string, std::string> metadata;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(double, const std::string& text) override {
    return unexpected("the number " + text);
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool number_integer(int64_t value) override {
    return unexpected(fmt::format("the number {}", value));
  }
  bool number_unsigned(uint64_t value) override {
    if (where_ != 4) return unexpected(fmt::format("the number {}", value));
    RawTensor& tensor = tensors.back();
    if (field_ == "shape") {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        fail(fmt::format("has a dimension of {}", value));
      }
      if (tensor.entry.shape.size() == kMaxDims) {
        fail(fmt::format("has more than {} dimensions", kMaxDims));
      }
      tensor.entry.shape.push_back(static_cast<int64_t>(value));
    } else {
      if (count_ == 0) tensor.begin = value;
      if (count_ == 1) tensor.end = value;
      if (++count_ > 2) fail("has more than two data_offsets");
    }
    return true;
  }
  bool string(std::string& value) override {
    if (where_ == 3) {
      if (!metadata.emplace(field_, value).second) {
        user_error(kTag, "{}: the metadata key {} occurs twice; {}", source_, in_quotes(field_),
                   kDamaged);
      }
      return true;
    }
    if (where_ != 2 || field_ != "dtype") return unexpected("a string");
    const auto type = file_type_from_name(value);
    if (!type) {
      user_error(kTag,
                 "{}: tensor {} has the type {}, which is not known; convert it to F32, BF16 or "
                 "F16",
                 source_, in_quotes(name_), in_quotes(value));
    }
    tensors.back().entry.type = *type;
    return true;
  }
  bool start_object(size_t) override {
    if (where_ == 0) {
      where_ = 1;
    } else if (where_ == 1) {
      if (name_ == "__metadata__") {
        if (seen_metadata_) {
          user_error(kTag, "{}: __metadata__ occurs twice; {}", source_, kDamaged);
        }
        seen_metadata_ = true;
        where_ = 3;
      } else {
        tensors.emplace_back().entry.name = name_;
        seen_ = 0;
        where_ = 2;
      }
    } else {
      return unexpected("an object");
    }
    return true;
  }
  bool key(std::string& value) override {
    if (where_ == 1) {
      name_ = value;
    } else {
      field_ = value;
      if (where_ == 2) {
        const int bit = value == "dtype"          ? 1
                        : value == "shape"        ? 2
                        : value == "data_offsets" ? 4
                                                  : 0;
        if (bit == 0) fail(fmt::format("has an unknown field {}", in_quotes(value)));
        if (seen_ & bit) fail(fmt::format("has {} twice", in_quotes(value)));
        seen_ |= bit;
      }
    }
    return true;
  }
  bool end_object() override {
    if (where_ == 2) {
      if (seen_ != 7) fail("lacks one of dtype, shape and data_offsets");
      where_ = 1;
    } else if (where_ == 3) {
      where_ = 1;
    } else {
      where_ = 0;
    }
    return true;
  }
  bool start_array(size_t) override {
    if (where_ != 2 || field_ == "dtype") return unexpected("a list");
    where_ = 4;
    count_ = 0;
    return true;
  }
  bool end_array() override {
    if (field_ == "data_offsets" && count_ != 2) fail("has fewer than two data_offsets");
    where_ = 2;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    user_error(kTag, "{}: the header is not valid JSON near its byte {}; {}", source_, position,
               kDamaged);
  }

 private:
  [[noreturn]] void fail(const std::string& what) {
    user_error(kTag, "{}: tensor {} {}; {}", source_, in_quotes(name_), what, kDamaged);
  }
  bool unexpected(const std::string& what) {
    if (where_ == 0) {
      user_error(kTag, "{}: the header must be a JSON object, but is {}; {}", source_, what,
                 kDamaged);
    }
    if (where_ == 3) {
      user_error(kTag, "{}: the metadata entry {} must be a string, but is {}; {}", source_,
                 in_quotes(field_), what, kDamaged);
    }
    fail(where_ == 1
             ? fmt::format("must be an object, but is {}", what)
             : fmt::format("has {} where {} wants something else", what, in_quotes(field_)));
  }

  const std::string& source_;
  int where_ = 0;
  int seen_ = 0;
  int count_ = 0;
  bool seen_metadata_ = false;
  std::string name_;
  std::string field_;
};

void check_one(RawTensor& tensor, const std::string& source, uint64_t data_bytes) {
  const TensorEntry& entry = tensor.entry;
  uint64_t bytes = file_type_size(entry.type);
  bool overflow = false;
  // A zero anywhere makes the product zero, whatever the other factors.
  const bool empty = std::count(entry.shape.begin(), entry.shape.end(), 0) > 0;
  for (const int64_t dim : entry.shape) {
    if (empty) break;
    overflow |= __builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes);
  }
  if (empty) bytes = 0;
  if (overflow || bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    user_error(kTag, "{}: tensor {} has the shape [{}], whose size overflows; {}", source,
               in_quotes(entry.name), fmt::join(entry.shape, ", "), kDamaged);
  }
  if (tensor.begin > tensor.end || tensor.end > data_bytes) {
    user_error(kTag,
               "{}: tensor {} is said to lie at bytes {} to {}, but the file has {} bytes of data; "
               "the file is truncated or damaged, fetch it again",
               source, in_quotes(entry.name), tensor.begin, tensor.end, data_bytes);
  }
  if (tensor.end - tensor.begin != bytes) {
    user_error(kTag,
               "{}: tensor {} of type {} and shape [{}] needs {} bytes, but its offsets {} to {} "
               "hold {}; {}",
               source, in_quotes(entry.name), file_type_name(entry.type),
               fmt::join(entry.shape, ", "), bytes, tensor.begin, tensor.end,
               tensor.end - tensor.begin, kDamaged);
  }
  tensor.entry.bytes = bytes;
}

}  // namespace

size_t file_type_size(FileType type) {
  for (const TypeInfo& info : kTypes) {
    if (info.type == type) return info.size;
  }
  return 0;
}

std::string_view file_type_name(FileType type) {
  for (const TypeInfo& info : kTypes) {
    if (info.type == type) return info.name;
  }
  return "?";
}

std::optional<FileType> file_type_from_name(std::string_view name) {
  for (const TypeInfo& info : kTypes) {
    if (info.name == name) return info.type;
  }
  return std::nullopt;
}

std::optional<DType> to_dtype(FileType type) {
  switch (type) {
    case FileType::f64:
      return DType::f64;
    case FileType::f32:
      return DType::f32;
    case FileType::f16:
      return DType::f16;
    case FileType::bf16:
      return DType::bf16;
    case FileType::i64:
      return DType::i64;
    case FileType::i32:
      return DType::i32;
    case FileType::u8:
      return DType::u8;
    default:
      return std::nullopt;
  }
}

FileType to_file_type(DType type) {
  switch (type) {
    case DType::f64:
      return FileType::f64;
    case DType::f32:
      return FileType::f32;
    case DType::f16:
      return FileType::f16;
    case DType::bf16:
      return FileType::bf16;
    case DType::i64:
      return FileType::i64;
    case DType::i32:
      return FileType::i32;
    case DType::u8:
      return FileType::u8;
  }
  HONE_CHECK(false, "unknown type");
}

int64_t TensorEntry::elements() const { return static_cast<int64_t>(bytes / file_type_size(type)); }

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> prefix, uint64_t file_size,
                                           const std::string& source) {
  if (file_size < 8 || prefix.size() < 8) {
    user_error(kTag,
               "{} has {} bytes, too few for a safetensors file; it is truncated or something "
               "else, fetch it again",
               source, file_size);
  }
  uint64_t length = 0;
  std::memcpy(&length, prefix.data(), 8);
  if (length > kMaxHeader) {
    user_error(kTag, "{} announces a header of {} bytes; at most {} are allowed; {}", source,
               length, kMaxHeader, kDamaged);
  }
  if (length > file_size - 8 || length > prefix.size() - 8) {
    user_error(kTag,
               "{} announces a header of {} bytes, but has only {} after the length; the file is "
               "truncated, fetch it again",
               source, length, file_size - 8);
  }
  const char* text = reinterpret_cast<const char*>(prefix.data()) + 8;
  if (length < 2 || text[0] != '{') {
    user_error(kTag, "{}: the header must begin with an opening brace; {}", source, kDamaged);
  }
  HeaderEvents events(source);
  nlohmann::json::sax_parse(text, text + length, &events);

  SafetensorsHeader header;
  header.metadata = std::move(events.metadata);
  header.data_begin = 8 + length;
  const uint64_t data_bytes = file_size - header.data_begin;
  std::vector<RawTensor>& raw = events.tensors;
  for (RawTensor& tensor : raw) check_one(tensor, source, data_bytes);

  std::vector<const std::string*> names;
  names.reserve(raw.size());
  for (const RawTensor& tensor : raw) names.push_back(&tensor.entry.name);
  std::sort(names.begin(), names.end(), [](auto* a, auto* b) { return *a < *b; });
  for (size_t i = 1; i < names.size(); ++i) {
    if (*names[i] == *names[i - 1]) {
      user_error(kTag, "{}: tensor {} occurs twice; {}", source, in_quotes(*names[i]), kDamaged);
    }
  }
  std::stable_sort(raw.begin(), raw.end(), [](const RawTensor& a, const RawTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t cursor = 0;
  const std::string* before = nullptr;
  for (RawTensor& tensor : raw) {
    if (tensor.begin < cursor) {
      user_error(kTag, "{}: tensor {} begins at byte {}, inside tensor {}, which ends at {}; {}",
                 source, in_quotes(tensor.entry.name), tensor.begin, in_quotes(*before), cursor,
                 kDamaged);
    }
    if (tensor.begin > cursor) {
      user_error(kTag, "{}: bytes {} to {} before tensor {} belong to no tensor; {}", source,
                 cursor, tensor.begin, in_quotes(tensor.entry.name), kDamaged);
    }
    cursor = tensor.end;
    before = &tensor.entry.name;
  }
  if (cursor != data_bytes) {
    user_error(kTag, "{}: the tensors end at byte {} of the data, but there are {}; {}", source,
               cursor, data_bytes, kDamaged);
  }
  header.tensors.reserve(raw.size());
  for (RawTensor& tensor : raw) {
    tensor.entry.offset = header.data_begin + tensor.begin;
    header.tensors.push_back(std::move(tensor.entry));
  }
  return header;
}

}  // namespace hone::io
