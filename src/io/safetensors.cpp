#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json_fields.h"
#include "core/thread_pool.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kTag = "weights";

// "a", "b", "c" and 7 more
std::string some_of(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(names.size(), 4); ++i) {
    text += (i ? ", " : "") + shown(nlohmann::json(names[i]));
  }
  if (names.size() > 4) text += fmt::format(" and {} more", names.size() - 4);
  return text;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t corner = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t up = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, corner + (a[i - 1] != b[j - 1])});
      corner = up;
    }
  }
  return row[b.size()];
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

// Whether a word of eight bytes holds an element whose exponent bits are all ones: adding one unit
// to the masked exponents carries into the (cleared) sign bit exactly then.
struct ExponentTest {
  uint64_t mask = 0, unit = 0, sign = 0;
};

ExponentTest exponent_test(FileType type) {
  auto spread = [](uint64_t value, int bits) {
    uint64_t word = 0;
    for (int at = 0; at < 64; at += bits) word |= value << at;
    return word;
  };
  switch (type) {
    case FileType::f64:
      return {0x7ff0000000000000ull, 0x0010000000000000ull, 1ull << 63};
    case FileType::f32:
      return {spread(0x7f800000, 32), spread(0x00800000, 32), spread(0x80000000, 32)};
    case FileType::bf16:
      return {spread(0x7f80, 16), spread(0x0080, 16), spread(0x8000, 16)};
    case FileType::f16:
      return {spread(0x7c00, 16), spread(0x0400, 16), spread(0x8000, 16)};
    // This type has no infinity; NaN is all ones.
    case FileType::f8_e4m3:
      return {spread(0x7f, 8), spread(0x01, 8), spread(0x80, 8)};
    case FileType::f8_e5m2:
      return {spread(0x7c, 8), spread(0x04, 8), spread(0x80, 8)};
    default:
      return {};
  }
}

uint64_t flags(const std::byte* at, size_t words, const ExponentTest& test) {
  // Four sums, so that one does not wait for the other.
  uint64_t found[4] = {};
  auto load = [&](size_t i) {
    uint64_t v;
    std::memcpy(&v, at + 8 * i, 8);
    return (v & test.mask) + test.unit;
  };
  size_t i = 0;
  for (; i + 4 <= words; i += 4) {
    for (size_t j = 0; j < 4; ++j) found[j] |= load(i + j);
  }
  for (; i < words; ++i) found[0] |= load(i);
  return (found[0] | found[1] | found[2] | found[3]) & test.sign;
}

float one_as_float(const std::byte* at, FileType type) {
  switch (type) {
    case FileType::f64: {
      double v;
      std::memcpy(&v, at, 8);
      return static_cast<float>(v);
    }
    case FileType::f32: {
      float v;
      std::memcpy(&v, at, 4);
      return v;
    }
    case FileType::bf16: {
      bf16 v;
      std::memcpy(&v.bits, at, 2);
      return static_cast<float>(v);
    }
    case FileType::f16: {
      f16 v;
      std::memcpy(&v.bits, at, 2);
      return static_cast<float>(v);
    }
    default:
      return std::bit_cast<float>(0x7fc00000u);
  }
}

[[noreturn]] void refuse(const TensorEntry& tensor, const fs::path& file, const NonFinite& found) {
  user_error(kTag,
             "{}: tensor {} holds {} value(s) that are not finite numbers, the first {} at "
             "element {} of {}; the weights are damaged or their training diverged, fetch them "
             "again",
             file.string(), tensor.name, found.count, found.value, found.first, tensor.elements());
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  SafetensorsFile file;
  file.path_ = path;
  file.map_ = MappedFile(path);
  SafetensorsHeader header =
      parse_safetensors_header(file.map_.bytes(), file.map_.size(), path.string());
  file.tensors_ = std::move(header.tensors);
  file.metadata_ = std::move(header.metadata);
  for (size_t i = 0; i < file.tensors_.size(); ++i) {
    TensorEntry& tensor = file.tensors_[i];
    tensor.data = file.map_.data() + tensor.offset;
    if (tensor.offset % file_type_size(tensor.type) != 0) {
      auto copy = std::make_unique<std::byte[]>(std::max<uint64_t>(tensor.bytes, 1));
      std::memcpy(copy.get(), tensor.data, tensor.bytes);
      tensor.data = copy.get();
      file.copies_.push_back(std::move(copy));
      file.copied_bytes_ += tensor.bytes;
    }
    file.by_name_.emplace(tensor.name, i);
  }
  return file;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

const TensorEntry& SafetensorsFile::at(std::string_view name) const {
  const TensorEntry* tensor = find(name);
  if (!tensor) user_error(kTag, "{} has no tensor {}", path_.string(), name);
  return *tensor;
}

std::map<std::string, std::string> parse_safetensors_index(const std::string& json_text,
                                                           const std::string& source) {
  const nlohmann::json json = parse_json_object(json_text, kTag, source);
  JsonFields fields(json, kTag, source);
  const nlohmann::json* entries = fields.object("weight_map");
  if (!entries || entries->empty()) {
    fields.fail("weight_map", "it must be an object that gives the file of every tensor");
  }
  std::map<std::string, std::string> result;
  for (const auto& [tensor, file] : entries->items()) {
    if (!file.is_string() || !is_plain_file_name(file.get_ref<const std::string&>())) {
      user_error(kTag,
                 "{}: the file of tensor {} is {}; it must be the plain name of a file in the same "
                 "folder",
                 source, shown(tensor), shown(file));
    }
    result.emplace(tensor, file.get<std::string>());
  }
  return result;
}

CheckpointReader CheckpointReader::open(const fs::path& folder) {
  CheckpointReader reader;
  reader.folder_ = folder;
  std::error_code code;
  const fs::path single = folder / "model.safetensors";
  const fs::path index = folder / "model.safetensors.index.json";
  std::map<std::string, std::string> weight_map;
  if (fs::exists(single, code)) {
    reader.files_.push_back(SafetensorsFile::open(single));
  } else if (fs::exists(index, code)) {
    weight_map = parse_safetensors_index(read_text_file(index, 256u << 20), index.string());
    std::set<std::string> names;
    for (const auto& [tensor, file] : weight_map) names.insert(file);
    std::vector<std::string> missing;
    for (const std::string& name : names) {
      if (!fs::exists(folder / name, code)) missing.push_back(name);
    }
    if (!missing.empty()) {
      user_error(kTag, "{} names {} that are not in the folder: {}; fetch the missing files",
                 index.string(),
                 missing.size() == 1 ? "1 file" : fmt::format("{} files", missing.size()),
                 some_of(missing));
    }
    for (const std::string& name : names) {
      reader.files_.push_back(SafetensorsFile::open(folder / name));
    }
  } else {
    if (!fs::is_directory(folder, code)) {
      user_error(kTag, "{} is not a folder; give a Hugging Face model folder", folder.string());
    }
    if (fs::exists(folder / "pytorch_model.bin", code) ||
        fs::exists(folder / "pytorch_model.bin.index.json", code)) {
      user_error(kTag,
                 "{} has only pytorch_model.bin, which can run code when read; convert it to "
                 "safetensors, for example with model.save_pretrained(...) in transformers",
                 folder.string());
    }
    user_error(kTag,
               "{} has neither model.safetensors nor model.safetensors.index.json; give a Hugging "
               "Face model folder with its weights",
               folder.string());
  }
  std::vector<std::string> unlisted;
  for (size_t i = 0; i < reader.files_.size(); ++i) {
    const SafetensorsFile& file = reader.files_[i];
    const std::string file_name = file.path().filename().string();
    for (const TensorEntry& tensor : file.tensors()) {
      if (!weight_map.empty()) {
        const auto it = weight_map.find(tensor.name);
        if (it == weight_map.end() || it->second != file_name) {
          unlisted.push_back(fmt::format("{} in {}", tensor.name, file_name));
          continue;
        }
      }
      reader.by_name_.emplace(tensor.name, std::pair(i, &tensor));
    }
  }
  if (!unlisted.empty()) {
    user_error(kTag,
               "{} does not list these tensors of its files: {}; the index belongs to other files, "
               "fetch them again",
               index.string(), some_of(unlisted));
  }
  std::vector<std::string> missing;
  for (const auto& [tensor, file] : weight_map) {
    if (!reader.by_name_.contains(tensor)) missing.push_back(fmt::format("{} in {}", tensor, file));
  }
  if (!missing.empty()) {
    user_error(kTag, "{} lists tensors that its files do not have: {}; fetch the files again",
               index.string(), some_of(missing));
  }
  return reader;
}

const TensorEntry* CheckpointReader::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second.second;
}

const TensorEntry& CheckpointReader::at(std::string_view name) const {
  if (const TensorEntry* tensor = find(name)) return *tensor;
  std::string_view nearest;
  size_t best = 16;
  for (const auto& [other, where] : by_name_) {
    if (other.size() > 1000 || name.size() > 1000) continue;
    const size_t distance = edit_distance(name, other);
    if (distance < best || (distance == best && !nearest.empty() && other < nearest)) {
      best = distance;
      nearest = other;
    }
  }
  const std::string hint = nearest.empty()
                               ? fmt::format("there are {} tensors", by_name_.size())
                               : fmt::format("the nearest is {}", shown(std::string(nearest)));
  user_error(kTag,
             "{} has no tensor {}, which config.json calls for ({}); the weights and config.json "
             "do not belong together, or the weights are incomplete",
             folder_.string(), name, hint);
}

std::vector<std::string> CheckpointReader::names() const {
  std::vector<std::string> result;
  result.reserve(by_name_.size());
  for (const auto& [name, where] : by_name_) result.emplace_back(name);
  std::sort(result.begin(), result.end());
  return result;
}

void CheckpointReader::rename(const std::map<std::string, std::string>& names) {
  std::vector<std::pair<size_t, const TensorEntry*>> moved;
  for (const auto& [from, to] : names) {
    const auto it = by_name_.find(from);
    HONE_CHECK(it != by_name_.end());
    renamed_.push_back(std::make_unique<TensorEntry>(*it->second.second));
    renamed_.back()->name = to;
    moved.emplace_back(it->second.first, renamed_.back().get());
    by_name_.erase(it);
  }
  for (const auto& entry : moved) {
    HONE_CHECK(by_name_.emplace(entry.second->name, entry).second, "two tensors of one name");
  }
}

const SafetensorsFile& CheckpointReader::file_of(std::string_view name) const {
  at(name);
  return files_[by_name_.find(name)->second.first];
}

uint64_t CheckpointReader::total_bytes() const {
  uint64_t total = 0;
  for (const auto& [name, where] : by_name_) total += where.second->bytes;
  return total;
}

std::string weights_fingerprint(const fs::path& folder) {
  constexpr size_t kEdge = 256;
  const CheckpointReader reader = CheckpointReader::open(folder);
  ContentHash hash;
  for (const std::string& name : reader.names()) {
    const TensorEntry& tensor = reader.at(name);
    const std::string what = fmt::format("{} {} [{}]\n", name, file_type_name(tensor.type),
                                         fmt::join(tensor.shape, ","));
    hash.update(std::as_bytes(std::span(what.data(), what.size())));
    const std::span<const std::byte> bytes(tensor.data, tensor.bytes);
    const size_t edge = std::min<size_t>(kEdge, bytes.size());
    hash.update(bytes.first(edge));
    hash.update(bytes.last(edge));
  }
  return fmt::format("{:016x}", hash.value());
}

std::optional<NonFinite> find_nonfinite(const TensorEntry& tensor) {
  const ExponentTest test = exponent_test(tensor.type);
  if (test.mask == 0) return std::nullopt;
  constexpr size_t kBlock = 64 << 10;
  const size_t size = file_type_size(tensor.type);
  std::optional<NonFinite> result;
  for (size_t at = 0; at < tensor.bytes; at += kBlock) {
    const size_t bytes = std::min<size_t>(kBlock, tensor.bytes - at);
    const std::byte* block = tensor.data + at;
    std::byte rest[8] = {};
    std::memcpy(rest, block + bytes / 8 * 8, bytes % 8);
    if (flags(block, bytes / 8, test) == 0 && flags(rest, 1, test) == 0) continue;
    for (size_t i = 0; i < bytes; i += size) {
      std::byte one[8] = {};
      std::memcpy(one, block + i, size);
      if (flags(one, 1, test) == 0) continue;
      if (!result) {
        result = NonFinite{static_cast<int64_t>((at + i) / size), 0,
                           one_as_float(block + i, tensor.type)};
      }
      ++result->count;
    }
  }
  return result;
}

void refuse_nonfinite(const TensorEntry& tensor, const fs::path& file) {
  if (const auto found = find_nonfinite(tensor)) refuse(tensor, file, *found);
}

void check_finite(const CheckpointReader& checkpoint, ThreadPool& pool) {
  check_finite(checkpoint, checkpoint.names(), pool);
}

void check_finite(const CheckpointReader& checkpoint, std::span<const std::string> names,
                  ThreadPool& pool) {
  // In parts, so that one large tensor does not keep one thread alone busy.
  constexpr uint64_t kPart = 2 << 20;
  struct Part {
    const TensorEntry* tensor;
    uint64_t begin, bytes;
  };
  std::vector<Part> parts;
  for (const std::string& name : names) {
    const TensorEntry& tensor = checkpoint.at(name);
    for (uint64_t at = 0; at < tensor.bytes; at += kPart) {
      parts.push_back({&tensor, at, std::min(kPart, tensor.bytes - at)});
    }
  }
  std::vector<std::optional<NonFinite>> found(parts.size());
  pool.run(static_cast<int64_t>(parts.size()), [&](int64_t task, int) {
    const Part& part = parts[static_cast<size_t>(task)];
    TensorEntry piece;
    piece.type = part.tensor->type;
    piece.bytes = part.bytes;
    piece.data = part.tensor->data + part.begin;
    found[static_cast<size_t>(task)] = find_nonfinite(piece);
  });
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!found[i]) continue;
    const TensorEntry& tensor = *parts[i].tensor;
    int64_t count = 0;
    for (size_t j = i; j < parts.size() && parts[j].tensor == &tensor; ++j) {
      if (found[j]) count += found[j]->count;
    }
    refuse(tensor, checkpoint.file_of(tensor.name).path(),
           {found[i]->first + static_cast<int64_t>(parts[i].begin / file_type_size(tensor.type)),
            count, found[i]->value});
  }
}

void read_as_float(const TensorEntry& tensor, int64_t first, std::span<float> out) {
  HONE_CHECK(first >= 0 && first + static_cast<int64_t>(out.size()) <= tensor.elements());
  const size_t size = file_type_size(tensor.type);
  const std::byte* at = tensor.data + static_cast<size_t>(first) * size;
  switch (tensor.type) {
    case FileType::f32:
      if (!out.empty()) std::memcpy(out.data(), at, out.size() * 4);
      return;
    case FileType::f64:
    case FileType::bf16:
    case FileType::f16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = one_as_float(at + i * size, tensor.type);
      return;
    default:
      user_error(kTag, "tensor {} has the type {}; only F32, BF16, F16 and F64 are read as numbers",
                 tensor.name, file_type_name(tensor.type));
  }
}

}  // namespace hone::io
