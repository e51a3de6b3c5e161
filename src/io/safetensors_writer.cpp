#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "io/safetensors.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;

std::string in_quotes(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// model-00001-of-00003.safetensors
bool is_shard_name(const std::string& name) {
  if (name.size() != 32 || !name.starts_with("model-") || !name.ends_with(".safetensors")) {
    return false;
  }
  auto digits = [](std::string_view s) {
    return std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  const std::string_view view = name;
  return digits(view.substr(6, 5)) && view.substr(11, 4) == "-of-" && digits(view.substr(15, 5));
}

}  // namespace

uint64_t TensorDecl::bytes() const {
  uint64_t total = file_type_size(type);
  for (const int64_t dim : shape) {
    HONE_CHECK(dim >= 0 && !__builtin_mul_overflow(total, static_cast<uint64_t>(dim), &total));
  }
  return total;
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<TensorDecl> tensors,
                                     const std::map<std::string, std::string>& metadata) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    HONE_CHECK(by_name_.emplace(tensors[i].name, i).second, "tensor declared twice");
    slots_.push_back({std::move(tensors[i]), 0, 0});
  }
  std::vector<size_t> order(slots_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return file_type_size(slots_[a].decl.type) > file_type_size(slots_[b].decl.type);
  });
  std::string header = "{\"__metadata__\":{";
  const char* comma = "";
  for (const auto& [key, value] : metadata) {
    header += fmt::format("{}{}:{}", comma, in_quotes(key), in_quotes(value));
    comma = ",";
  }
  header += "}";
  uint64_t end = 0;
  for (const size_t i : order) {
    Slot& slot = slots_[i];
    slot.offset = end;
    end += slot.decl.bytes();
    header += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          in_quotes(slot.decl.name), file_type_name(slot.decl.type),
                          fmt::join(slot.decl.shape, ","), slot.offset, end);
  }
  header += "}";
  // Padding with spaces is part of the format; it puts the data on a cache line.
  while ((8 + header.size()) % 64 != 0) header += ' ';
  const uint64_t length = header.size();
  for (Slot& slot : slots_) slot.offset += 8 + length;
  file_bytes_ = 8 + length + end;
  file_ = std::make_unique<AtomicFile>(path, file_bytes_);
  file_->append(std::as_bytes(std::span(&length, 1)));
  file_->append(header);
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto it = by_name_.find(std::string(name));
  HONE_CHECK(it != by_name_.end(), "tensor was not declared");
  Slot& slot = slots_[it->second];
  HONE_CHECK(slot.written + bytes.size() <= slot.decl.bytes(), "more bytes than declared");
  file_->write_at(slot.offset + slot.written, bytes);
  slot.written += bytes.size();
}

void SafetensorsWriter::finish() {
  for (const Slot& slot : slots_) {
    HONE_CHECK(slot.written == slot.decl.bytes(), "a declared tensor is incomplete");
  }
  file_->commit();
}

namespace {

// Whether a file is there, whole, and holds these tensors.
bool holds(const fs::path& path, const std::vector<TensorDecl>& tensors) {
  std::error_code code;
  if (!fs::exists(path, code)) return false;
  try {
    const SafetensorsFile file = SafetensorsFile::open(path);
    return file.tensors().size() == tensors.size() &&
           std::all_of(tensors.begin(), tensors.end(), [&](const TensorDecl& t) {
             const TensorEntry* there = file.find(t.name);
             return there != nullptr && there->type == t.type && there->shape == t.shape;
           });
  } catch (const UserError&) {
    return false;  // another one takes its place
  }
}

}  // namespace

ModelWriter::ModelWriter(const fs::path& folder, std::vector<TensorDecl> tensors,
                         uint64_t max_shard_bytes, Files mode)
    : folder_(folder), mode_(mode) {
  std::error_code code;
  fs::create_directories(folder, code);
  if (code) runtime_error("file", "cannot create {}: {}", folder.string(), code.message());
  uint64_t shard_bytes = 0;
  for (TensorDecl& tensor : tensors) {
    const uint64_t bytes = tensor.bytes();
    if (shards_.empty() || (shard_bytes > 0 && shard_bytes + bytes > max_shard_bytes)) {
      shards_.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += bytes;
    total_bytes_ += bytes;
    total_parameters_ += bytes / file_type_size(tensor.type);
    shard_of_.emplace(tensor.name, shards_.size() - 1);
    shards_.back().push_back(std::move(tensor));
  }
  if (shards_.empty()) shards_.emplace_back();
  for (size_t i = 0; i < shards_.size(); ++i) {
    files_.push_back(shards_.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards_.size()));
    uint64_t& left = left_.emplace_back(0);
    for (const TensorDecl& tensor : shards_[i]) left += tensor.bytes();
    const bool kept = mode_ == Files::one_by_one && holds(folder_ / files_[i], shards_[i]);
    writers_.push_back(kept ? nullptr
                            : std::make_unique<SafetensorsWriter>(folder_ / files_[i], shards_[i]));
  }
}

bool ModelWriter::in_place(std::string_view name) const {
  return writers_[shard_of_.at(std::string(name))] == nullptr;
}

void ModelWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto it = shard_of_.find(std::string(name));
  HONE_CHECK(it != shard_of_.end(), "tensor was not declared");
  const size_t shard = it->second;
  HONE_CHECK(writers_[shard] != nullptr, "tensor is in place");
  writers_[shard]->write(name, bytes);
  left_[shard] -= bytes.size();
  if (mode_ == Files::together || left_[shard] > 0) return;
  writers_[shard]->finish();
  writers_[shard].reset();
}

void ModelWriter::finish() {
  for (auto& writer : writers_) {
    if (writer) writer->finish();
  }
  const fs::path index = folder_ / "model.safetensors.index.json";
  std::error_code code;
  if (files_.size() > 1) {
    nlohmann::json weight_map = nlohmann::json::object();
    for (const auto& [name, shard] : shard_of_) weight_map[name] = files_[shard];
    const nlohmann::json json = {
        {"metadata", {{"total_size", total_bytes_}, {"total_parameters", total_parameters_}}},
        {"weight_map", weight_map}};
    write_file_atomically(index, json.dump(2) + "\n");
    fs::remove(folder_ / "model.safetensors", code);
  } else {
    fs::remove(index, code);
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, code)) {
    const std::string name = entry.path().filename().string();
    if (is_shard_name(name) && std::find(files_.begin(), files_.end(), name) == files_.end()) {
      fs::remove(entry.path(), code);
    }
  }
  sync_folder(folder_);
}

}  // namespace hone::io
