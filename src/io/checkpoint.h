// Training checkpoints: CHECKPOINTS/step-N with manifest.json and safetensors payloads. A
// checkpoint is written beside (.tmp-step-N), made durable and renamed, so that at any moment the
// folder holds the old ones or the old ones and the new. Nothing in it names ranks or threads.
// A payload may be a file that other programs read, too, under their names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace hone::io {

// One logical tensor: a parameter's value ("param") or an optimizer state of it ("exp_avg",
// "exp_avg_sq", "master", ...). One of no kind is in its file for others who read that, and no part
// of the state.
struct StateTensor {
  std::string parameter;
  std::string kind;
  FileType type = FileType::f32;
  std::vector<int64_t> shape;       // global
  std::span<const std::byte> data;  // the whole tensor, row-major
  // The payload file that holds it under the parameter's name; empty: state.safetensors, which
  // holds it as KIND/PARAMETER.
  std::string file = {};
};

struct CheckpointOptions {
  int save_total_limit = 0;  // 0: keep all; n: the newest n, the one just written included ...
  int64_t keep = -1;         // ... and this step's beside them
  // Writes further files into the checkpoint's folder, before it is put in place.
  std::function<void(const std::filesystem::path& folder)> write_more = nullptr;
};

// Writes checkpoints/step-N. state: an object, anything a resume needs. Returns the final folder. A
// disk failure is a RuntimeError; the checkpoints that were there stay.
std::filesystem::path write_checkpoint(const std::filesystem::path& checkpoints, int64_t step,
                                       std::span<const StateTensor> tensors,
                                       const nlohmann::json& state,
                                       const CheckpointOptions& options = {});

// The part of a tensor that a payload file holds.
struct ManifestPiece {
  std::string file;             // a plain name in the checkpoint's folder
  std::string key;              // name of the tensor in that file
  std::vector<int64_t> offset;  // where it starts, a coordinate a dimension
  std::vector<int64_t> shape;
};
struct ManifestTensor {
  std::string parameter;
  std::string kind;
  FileType type = FileType::f32;
  std::vector<int64_t> shape;
  std::vector<ManifestPiece> pieces;  // disjoint, covering all
};
struct ManifestFile {
  std::string name;
  uint64_t bytes = 0;
  uint64_t hash = 0;  // ContentHash of the whole file
};
struct Manifest {
  int64_t step = 0;
  std::vector<ManifestFile> files;
  std::vector<ManifestTensor> tensors;
  nlohmann::json state;
};
// Checks form, names, shapes and that pieces tile each tensor. Throws UserError.
Manifest parse_manifest(const std::string& json_text, const std::string& source);

class TrainingCheckpoint {
 public:
  // Opens and verifies one step-N folder: manifest, sizes, and with verify_content every byte.
  // UserError says what is damaged.
  static TrainingCheckpoint open(const std::filesystem::path& folder, bool verify_content = true);

  int64_t step() const { return manifest_.step; }
  const nlohmann::json& state() const { return manifest_.state; }
  const std::vector<ManifestTensor>& tensors() const { return manifest_.tensors; }
  const std::filesystem::path& folder() const { return folder_; }
  bool has(std::string_view parameter, std::string_view kind) const;
  // Copies the whole tensor to out. UserError if it is absent or its type or shape is not the one
  // asked for.
  void read(std::string_view parameter, std::string_view kind, FileType type,
            std::span<const int64_t> shape, std::span<std::byte> out) const;

 private:
  const ManifestTensor* find(std::string_view parameter, std::string_view kind) const;
  std::filesystem::path folder_;
  Manifest manifest_;
  std::vector<SafetensorsFile> files_;  // as manifest_.files
};

// Steps of the step-N folders that look complete (manifest readable, payload sizes right),
// ascending. skipped, if given, gets a sentence for each that is not.
std::vector<int64_t> list_checkpoints(const std::filesystem::path& checkpoints,
                                      std::vector<std::string>* skipped = nullptr);
// The newest complete one; null: none.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& checkpoints,
                                                       std::vector<std::string>* skipped = nullptr);
// Where a run's folder has no result yet: "; its run isn't finished, use RUN/checkpoints/step-N,
// its newest checkpoint", or with a folder of checkpoints the newest of these; else "".
std::string checkpoint_hint(const std::filesystem::path& folder);
// CHECKPOINTS/step-N.
std::filesystem::path checkpoint_folder(const std::filesystem::path& checkpoints, int64_t step);
// Opens the newest one whose every byte verifies, passing over damaged ones; null: none.
std::optional<TrainingCheckpoint> open_latest_checkpoint(
    const std::filesystem::path& checkpoints, std::vector<std::string>* skipped = nullptr);
// Removes all checkpoints above `step`: going on from an older one begins another history.
void discard_checkpoints_after(const std::filesystem::path& checkpoints, int64_t step);

}  // namespace hone::io
