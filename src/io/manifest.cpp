#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/json_fields.h"
#include "io/checkpoint.h"

namespace hone::io {
namespace {

constexpr std::string_view kTag = "checkpoint";
constexpr size_t kMaxDims = 16;
constexpr size_t kMaxPieces = 1024;

std::string plain_name(JsonFields& fields, const char* field) {
  const auto name = fields.text(field);
  if (!name || name->empty() || name->front() == '.' ||
      name->find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
    fields.fail(field, "it must be the plain name of a file");
  }
  return *name;
}

std::vector<int64_t> dims(JsonFields& fields, const char* field) {
  const auto result = fields.integers(field, 0, INT64_MAX / 2);
  if (!result || result->size() > kMaxDims) {
    fields.fail(field, fmt::format("it must be a list of at most {} integers", kMaxDims));
  }
  return *result;
}

// Number of elements; UserError if it overflows.
int64_t volume(const std::vector<int64_t>& shape, const JsonFields& fields) {
  if (std::count(shape.begin(), shape.end(), 0) > 0) return 0;
  int64_t total = 1;
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(total, dim, &total) || total > (int64_t{1} << 59)) {
      fields.fail("shape", "its size overflows");
    }
  }
  return total;
}

bool overlap(const ManifestPiece& a, const ManifestPiece& b) {
  for (size_t i = 0; i < a.shape.size(); ++i) {
    if (a.offset[i] >= b.offset[i] + b.shape[i] || b.offset[i] >= a.offset[i] + a.shape[i]) {
      return false;
    }
  }
  return true;
}

const nlohmann::json& list_of(JsonFields& fields, const char* name) {
  const nlohmann::json* value = fields.get(name);
  if (!value || !value->is_array()) fields.fail(name, "it must be a list");
  return *value;
}

const nlohmann::json& checked_object(const nlohmann::json& value, const std::string& source,
                                     const char* what) {
  if (!value.is_object()) {
    user_error(kTag, "{}: an entry of {} is {}; it must be an object", source, what, shown(value));
  }
  return value;
}

ManifestTensor parse_tensor(const nlohmann::json& json, const std::string& source,
                            const std::vector<ManifestFile>& files) {
  JsonFields fields(checked_object(json, source, "tensors"), kTag, source, "tensors.");
  ManifestTensor tensor;
  tensor.parameter = fields.text("parameter").value_or("");
  tensor.kind = fields.text("kind").value_or("");
  if (tensor.parameter.empty()) fields.fail("parameter", "it must be a name");
  if (tensor.kind.empty()) fields.fail("kind", "it must be a name");
  const auto type = file_type_from_name(fields.text("dtype").value_or(""));
  if (!type) fields.fail("dtype", "it must be a type such as F32");
  tensor.type = *type;
  tensor.shape = dims(fields, "shape");
  const int64_t total = volume(tensor.shape, fields);
  const nlohmann::json& pieces = list_of(fields, "pieces");
  if (pieces.empty() || pieces.size() > kMaxPieces) {
    fields.fail("pieces", fmt::format("a tensor has 1 to {} pieces", kMaxPieces));
  }
  int64_t covered = 0;
  for (const nlohmann::json& item : pieces) {
    JsonFields inner(checked_object(item, source, "pieces"), kTag, source, "tensors.pieces.");
    ManifestPiece piece;
    piece.file = plain_name(inner, "file");
    piece.key = inner.text("key").value_or("");
    piece.offset = dims(inner, "offset");
    piece.shape = dims(inner, "shape");
    if (std::none_of(files.begin(), files.end(),
                     [&](const ManifestFile& file) { return file.name == piece.file; })) {
      inner.fail("file", "it is not among the files of the checkpoint");
    }
    bool inside =
        piece.shape.size() == tensor.shape.size() && piece.offset.size() == tensor.shape.size();
    for (size_t i = 0; inside && i < tensor.shape.size(); ++i) {
      inside =
          piece.offset[i] <= tensor.shape[i] && piece.shape[i] <= tensor.shape[i] - piece.offset[i];
    }
    if (!inside) inner.fail("shape", fmt::format("the piece is not inside {}", tensor.parameter));
    covered += volume(piece.shape, inner);
    if (covered > total) break;
    tensor.pieces.push_back(std::move(piece));
  }
  bool tiled = covered == total;
  for (size_t i = 0; tiled && total > 0 && i < tensor.pieces.size(); ++i) {
    for (size_t j = 0; tiled && j < i; ++j) tiled = !overlap(tensor.pieces[i], tensor.pieces[j]);
  }
  if (!tiled) {
    user_error(kTag, "{}: the pieces of {} ({}) do not tile its shape [{}]", source,
               shown(nlohmann::json(tensor.parameter)), shown(nlohmann::json(tensor.kind)),
               fmt::join(tensor.shape, ", "));
  }
  return tensor;
}

}  // namespace

Manifest parse_manifest(const std::string& json_text, const std::string& source) {
  const nlohmann::json json = parse_json_object(json_text, kTag, source);
  JsonFields fields(json, kTag, source);
  if (fields.text("format").value_or("") != "hone-checkpoint") {
    fields.fail("format", "it must be \"hone-checkpoint\"");
  }
  if (fields.required_integer("version", 0, INT32_MAX) != 1) {
    fields.fail("version", "this program reads version 1; use the one that wrote it");
  }
  Manifest manifest;
  manifest.step = fields.required_integer("step", 0, INT64_MAX / 2);
  for (const nlohmann::json& item : list_of(fields, "files")) {
    JsonFields inner(checked_object(item, source, "files"), kTag, source, "files.");
    ManifestFile file;
    file.name = plain_name(inner, "name");
    file.bytes = static_cast<uint64_t>(inner.required_integer("bytes", 0, INT64_MAX / 2));
    const std::string hash = inner.text("hash").value_or("");
    const auto [end, error] =
        std::from_chars(hash.data(), hash.data() + hash.size(), file.hash, 16);
    if (hash.size() != 16 || error != std::errc() || end != hash.data() + hash.size()) {
      inner.fail("hash", "it must be 16 hexadecimal digits");
    }
    if (std::any_of(manifest.files.begin(), manifest.files.end(),
                    [&](const ManifestFile& other) { return other.name == file.name; })) {
      inner.fail("name", "it occurs twice");
    }
    if (manifest.files.size() >= 4096) fields.fail("files", "there are more than 4096");
    manifest.files.push_back(std::move(file));
  }
  for (const nlohmann::json& item : list_of(fields, "tensors")) {
    manifest.tensors.push_back(parse_tensor(item, source, manifest.files));
  }
  auto key = [](const ManifestTensor& t) { return std::tie(t.parameter, t.kind); };
  std::sort(manifest.tensors.begin(), manifest.tensors.end(),
            [&](const auto& a, const auto& b) { return key(a) < key(b); });
  const auto twice =
      std::adjacent_find(manifest.tensors.begin(), manifest.tensors.end(),
                         [&](const auto& a, const auto& b) { return key(a) == key(b); });
  if (twice != manifest.tensors.end()) {
    user_error(kTag, "{}: {} ({}) occurs twice", source, shown(nlohmann::json(twice->parameter)),
               shown(nlohmann::json(twice->kind)));
  }
  const nlohmann::json* state = fields.object("state");
  if (!state) fields.fail("state", "it must be an object");
  manifest.state = *state;
  return manifest;
}

}  // namespace hone::io
