#include "io/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/json_fields.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kTag = "checkpoint";
constexpr const char* kManifest = "manifest.json";
constexpr const char* kPayload = "state.safetensors";
constexpr uint64_t kMaxManifest = 256u << 20;

// The number of "step-N"; null for other names.
std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with("step-") || name.size() < 6 || name.size() > 23) return std::nullopt;
  int64_t step = 0;
  for (const char c : name.substr(5)) {
    if (c < '0' || c > '9') return std::nullopt;
    step = step * 10 + (c - '0');
  }
  return name == fmt::format("step-{}", step) ? std::optional(step) : std::nullopt;
}

// All step-N folders, ascending.
std::vector<int64_t> step_folders(const fs::path& checkpoints) {
  std::vector<int64_t> steps;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints, code)) {
    const auto step = step_of(entry.path().filename().string());
    if (step && entry.is_directory(code)) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

fs::path folder_of(const fs::path& checkpoints, int64_t step) {
  return checkpoints / fmt::format("step-{}", step);
}

// What an interrupted write or removal left.
void remove_leftovers(const fs::path& checkpoints) {
  std::error_code code;
  std::vector<fs::path> gone;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints, code)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".tmp-step-") || name.starts_with(".old-step-")) {
      gone.push_back(entry.path());
    }
  }
  for (const fs::path& path : gone) fs::remove_all(path, code);
}

// Renamed first, so that a folder named step-N is never half removed.
void remove_checkpoint(const fs::path& checkpoints, int64_t step) {
  std::error_code code;
  const fs::path old = checkpoints / fmt::format(".old-step-{}", step);
  fs::remove_all(old, code);
  fs::rename(folder_of(checkpoints, step), old, code);
  if (code) {
    runtime_error(kTag, "cannot remove {}: {}", folder_of(checkpoints, step).string(),
                  code.message());
  }
  fs::remove_all(old, code);
}

uint64_t manifest_check(nlohmann::json manifest) {
  manifest.erase("check");
  const std::string text = manifest.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return content_hash(std::as_bytes(std::span(text.data(), text.size())));
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifest;
  std::error_code code;
  if (!fs::exists(path, code)) {
    user_error(kTag, "{} has no {}; it is not a complete checkpoint", folder.string(), kManifest);
  }
  const std::string text = read_text_file(path, kMaxManifest);
  const nlohmann::json json = parse_json_object(text, kTag, path.string());
  JsonFields fields(json, kTag, path.string());
  if (fields.text("check").value_or("") != fmt::format("{:016x}", manifest_check(json))) {
    fields.fail("check", "it does not fit the content; the file is damaged");
  }
  Manifest manifest = parse_manifest(text, path.string());
  for (const ManifestFile& file : manifest.files) {
    const uintmax_t size = fs::file_size(folder / file.name, code);
    if (code || size != file.bytes) {
      user_error(kTag, "{} has {} bytes, but should have {}; the checkpoint is damaged",
                 (folder / file.name).string(), code ? 0 : size, file.bytes);
    }
  }
  return manifest;
}

std::string file_of(const StateTensor& tensor) {
  return tensor.file.empty() ? kPayload : tensor.file;
}

TensorDecl declared(const StateTensor& tensor) {
  std::string key = tensor.parameter;
  if (tensor.file.empty()) key = tensor.kind + "/" + key;
  TensorDecl decl{key, tensor.type, tensor.shape};
  HONE_CHECK(decl.bytes() == tensor.data.size(), "size differs from shape and type");
  return decl;
}

// Writes the payload file and returns its entry in the manifest.
nlohmann::json write_payload(const fs::path& folder, const std::string& name,
                             std::span<const StateTensor> tensors) {
  std::vector<TensorDecl> decls;
  for (const StateTensor& tensor : tensors)
    if (file_of(tensor) == name) decls.push_back(declared(tensor));
  {
    SafetensorsWriter writer(folder / name, decls);
    for (const StateTensor& tensor : tensors)
      if (file_of(tensor) == name) writer.write(declared(tensor).name, tensor.data);
    writer.finish();
  }
  const MappedFile payload(folder / name);
  return {{"name", name},
          {"bytes", payload.size()},
          {"hash", fmt::format("{:016x}", content_hash(payload.bytes()))}};
}

void write_into(const fs::path& folder, int64_t step, std::span<const StateTensor> tensors,
                const nlohmann::json& state) {
  std::set<std::string> names;
  nlohmann::json list = nlohmann::json::array(), files = nlohmann::json::array();
  for (const StateTensor& tensor : tensors) {
    names.insert(file_of(tensor));
    if (tensor.kind.empty()) continue;
    list.push_back({{"parameter", tensor.parameter},
                    {"kind", tensor.kind},
                    {"dtype", file_type_name(tensor.type)},
                    {"shape", tensor.shape},
                    {"pieces",
                     {{{"file", file_of(tensor)},
                       {"key", declared(tensor).name},
                       {"offset", std::vector<int64_t>(tensor.shape.size(), 0)},
                       {"shape", tensor.shape}}}}});
  }
  for (const std::string& name : names) files.push_back(write_payload(folder, name, tensors));
  nlohmann::json manifest = {{"format", "hone-checkpoint"},
                             {"version", 1},
                             {"step", step},
                             {"files", files},
                             {"tensors", list},
                             {"state", state}};
  manifest["check"] = fmt::format("{:016x}", manifest_check(manifest));
  write_file_atomically(
      folder / kManifest,
      manifest.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

// Puts the finished folder in place. Where a checkpoint of that step is there already, the two
// change places at once.
void move_into_place(const fs::path& temporary, const fs::path& final) {
  if (rename(temporary.c_str(), final.c_str()) == 0) return;
  if (errno == EEXIST || errno == ENOTEMPTY) {
    if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, final.c_str(), RENAME_EXCHANGE) == 0) {
      return;
    }
    // A file system without the exchange: for a moment neither is in place.
    const fs::path old = final.parent_path() / (".old-" + final.filename().string());
    std::error_code code;
    fs::remove_all(old, code);
    if (rename(final.c_str(), old.c_str()) == 0) {
      if (rename(temporary.c_str(), final.c_str()) == 0) return;
      const int error = errno;
      if (rename(old.c_str(), final.c_str()) == 0) errno = error;
    }
  }
  runtime_error(kTag, "cannot rename {} to {}: {}", temporary.string(), final.string(),
                std::strerror(errno));
}

}  // namespace

fs::path write_checkpoint(const fs::path& checkpoints, int64_t step,
                          std::span<const StateTensor> tensors, const nlohmann::json& state,
                          const CheckpointOptions& options) {
  HONE_CHECK(step >= 0 && state.is_object());
  std::error_code code;
  fs::create_directories(checkpoints, code);
  if (code) runtime_error(kTag, "cannot create {}: {}", checkpoints.string(), code.message());
  remove_leftovers(checkpoints);
  const fs::path temporary = checkpoints / fmt::format(".tmp-step-{}", step);
  const fs::path final = folder_of(checkpoints, step);
  try {
    fs::create_directory(temporary, code);
    if (code) runtime_error(kTag, "cannot create {}: {}", temporary.string(), code.message());
    write_into(temporary, step, tensors, state);
    if (options.write_more) options.write_more(temporary);
    sync_folder(temporary);
    move_into_place(temporary, final);
  } catch (...) {
    fs::remove_all(temporary, code);
    throw;
  }
  sync_folder(checkpoints);
  remove_leftovers(checkpoints);
  if (options.save_total_limit > 0) {
    std::vector<int64_t> steps = list_checkpoints(checkpoints);
    std::erase_if(steps, [&](int64_t s) { return s == options.keep && s != step; });
    while (static_cast<int>(steps.size()) > options.save_total_limit && steps.front() != step) {
      remove_checkpoint(checkpoints, steps.front());
      steps.erase(steps.begin());
    }
  }
  return final;
}

fs::path checkpoint_folder(const fs::path& checkpoints, int64_t step) {
  return folder_of(checkpoints, step);
}

std::vector<int64_t> list_checkpoints(const fs::path& checkpoints,
                                      std::vector<std::string>* skipped) {
  std::vector<int64_t> complete;
  for (const int64_t step : step_folders(checkpoints)) {
    const fs::path folder = folder_of(checkpoints, step);
    try {
      if (read_manifest(folder).step != step) {
        user_error(kTag, "{}: the manifest is of another step", folder.string());
      }
      complete.push_back(step);
    } catch (const UserError& e) {
      if (skipped) skipped->push_back(e.what());
    }
  }
  return complete;
}

std::optional<fs::path> latest_checkpoint(const fs::path& checkpoints,
                                          std::vector<std::string>* skipped) {
  const std::vector<int64_t> steps = list_checkpoints(checkpoints, skipped);
  if (steps.empty()) return std::nullopt;
  return folder_of(checkpoints, steps.back());
}

std::string checkpoint_hint(const fs::path& folder) {
  if (const auto newest = latest_checkpoint(folder / "checkpoints")) {
    return fmt::format("; its run isn't finished, use its newest checkpoint: {}", newest->string());
  }
  if (const auto newest = latest_checkpoint(folder))
    return fmt::format("; it holds checkpoints, the newest is {}", newest->string());
  return "";
}

std::optional<TrainingCheckpoint> open_latest_checkpoint(const fs::path& checkpoints,
                                                         std::vector<std::string>* skipped) {
  std::vector<int64_t> steps = step_folders(checkpoints);
  for (; !steps.empty(); steps.pop_back()) {
    try {
      TrainingCheckpoint opened = TrainingCheckpoint::open(folder_of(checkpoints, steps.back()));
      if (opened.step() == steps.back()) return opened;
    } catch (const UserError& e) {
      if (skipped) skipped->push_back(e.what());
    }
  }
  return std::nullopt;
}

void discard_checkpoints_after(const fs::path& checkpoints, int64_t step) {
  for (const int64_t other : step_folders(checkpoints)) {
    if (other > step) remove_checkpoint(checkpoints, other);
  }
  std::error_code code;
  if (fs::is_directory(checkpoints, code)) sync_folder(checkpoints);
}

TrainingCheckpoint TrainingCheckpoint::open(const fs::path& folder, bool verify_content) {
  TrainingCheckpoint checkpoint;
  checkpoint.folder_ = folder;
  std::error_code code;
  if (!fs::is_directory(folder, code)) {
    user_error(kTag, "{} is not a folder; give a checkpoint's folder, such as checkpoints/step-100",
               folder.string());
  }
  checkpoint.manifest_ = read_manifest(folder);
  const Manifest& manifest = checkpoint.manifest_;
  for (const ManifestFile& file : manifest.files) {
    checkpoint.files_.push_back(SafetensorsFile::open(folder / file.name));
    const MappedFile& map = checkpoint.files_.back().map();
    if (verify_content) {
      map.advise(MappedFile::Advice::sequential);
      if (content_hash(map.bytes()) != file.hash) {
        user_error(kTag, "{}: the content does not fit its hash; the checkpoint is damaged",
                   (folder / file.name).string());
      }
    }
  }
  for (const ManifestTensor& tensor : manifest.tensors) {
    for (const ManifestPiece& piece : tensor.pieces) {
      const auto it = std::find_if(manifest.files.begin(), manifest.files.end(),
                                   [&](const ManifestFile& f) { return f.name == piece.file; });
      const size_t index = static_cast<size_t>(it - manifest.files.begin());
      const TensorEntry& entry = checkpoint.files_[index].at(piece.key);
      if (entry.type != tensor.type || entry.shape != piece.shape) {
        user_error(kTag, "{}: tensor {} is {} [{}], but the manifest says {} [{}]",
                   (folder / piece.file).string(), entry.name, file_type_name(entry.type),
                   fmt::join(entry.shape, ", "), file_type_name(tensor.type),
                   fmt::join(piece.shape, ", "));
      }
    }
  }
  return checkpoint;
}

const ManifestTensor* TrainingCheckpoint::find(std::string_view parameter,
                                               std::string_view kind) const {
  const auto& tensors = manifest_.tensors;
  const auto it = std::lower_bound(
      tensors.begin(), tensors.end(), std::pair(parameter, kind),
      [](const ManifestTensor& tensor, const std::pair<std::string_view, std::string_view>& key) {
        return std::pair<std::string_view, std::string_view>(tensor.parameter, tensor.kind) < key;
      });
  if (it == tensors.end() || it->parameter != parameter || it->kind != kind) return nullptr;
  return &*it;
}

bool TrainingCheckpoint::has(std::string_view parameter, std::string_view kind) const {
  return find(parameter, kind) != nullptr;
}

void TrainingCheckpoint::read(std::string_view parameter, std::string_view kind, FileType type,
                              std::span<const int64_t> shape, std::span<std::byte> out) const {
  const ManifestTensor* tensor = find(parameter, kind);
  if (!tensor) {
    user_error(kTag,
               "{} has no {} of {}; it was written by a run of another configuration, resume with "
               "the same",
               folder_.string(), kind, parameter);
  }
  if (tensor->type != type ||
      !std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    user_error(kTag,
               "{}: {} of {} is {} [{}], but this run needs {} [{}]; resume with the configuration "
               "that wrote it",
               folder_.string(), kind, parameter, file_type_name(tensor->type),
               fmt::join(tensor->shape, ", "), file_type_name(type),
               fmt::join(shape.begin(), shape.end(), ", "));
  }
  const size_t element = file_type_size(type);
  size_t total = element;
  for (const int64_t dim : shape) total *= static_cast<size_t>(dim);
  HONE_CHECK(out.size() == total, "the buffer does not fit the tensor");
  for (const ManifestPiece& piece : tensor->pieces) {
    const auto it = std::find_if(manifest_.files.begin(), manifest_.files.end(),
                                 [&](const ManifestFile& f) { return f.name == piece.file; });
    const TensorEntry& entry =
        files_[static_cast<size_t>(it - manifest_.files.begin())].at(piece.key);
    if (entry.bytes == 0) continue;
    const size_t n = shape.size();
    const size_t row = n == 0 ? element : static_cast<size_t>(piece.shape[n - 1]) * element;
    std::vector<int64_t> at(n, 0);  // in the piece, the last dimension always 0
    for (const std::byte* from = entry.data; from < entry.data + entry.bytes; from += row) {
      int64_t position = 0;
      for (size_t i = 0; i < n; ++i) position = position * shape[i] + piece.offset[i] + at[i];
      std::memcpy(out.data() + static_cast<size_t>(position) * element, from, row);
      for (size_t i = n; i-- > 1;) {
        if (++at[i - 1] < piece.shape[i - 1]) break;
        at[i - 1] = 0;
      }
    }
  }
}

}  // namespace hone::io
