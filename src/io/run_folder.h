// A run's folder: adapter or weights at the top, run.json (the effective configuration),
// metrics.jsonl, checkpoints/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace hone::io {

enum class ExistingRun { refuse, resume, overwrite };

// Owns a run's folder while it lives: a second process that opens the same folder gets a UserError.
class RunFolder {
 public:
  // Creates the folder and its parents. A folder that holds a run is a UserError with `refuse`, is
  // kept with `resume`, and loses that run's own files (metrics, checkpoints, adapter, weights)
  // with `overwrite`. A folder that holds a model which no run of hone wrote is always refused.
  static RunFolder open(const std::filesystem::path& path, ExistingRun existing);
  RunFolder(RunFolder&& other) noexcept;
  RunFolder& operator=(RunFolder&&) = delete;
  ~RunFolder();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path config() const { return path_ / "run.json"; }
  bool held_a_run() const { return held_a_run_; }  // before open(), and it was kept

  // Removes a run's own files: metrics, checkpoints, adapter, weights. The folder stays usable.
  void remove_run() const;
  // For a run that failed before its first step: removes what open() and save_config() made, and
  // nothing else.
  void abandon() const;

  void save_config(const nlohmann::json& effective) const;  // atomically
  // null: no run.json yet. UserError if it is not a JSON object.
  std::optional<nlohmann::json> load_config() const;

 private:
  RunFolder() = default;
  std::filesystem::path path_;
  int lock_ = -1;
  bool held_a_run_ = false;
  bool created_ = false;  // the folder itself
};

// Whether the folder holds a run of hone (finished or not).
bool holds_a_run(const std::filesystem::path& folder);

// Appends one JSON object a line; every line has an integer "step". A line is written by one write
// call.
class MetricsLog {
 public:
  explicit MetricsLog(const std::filesystem::path& path);
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;
  ~MetricsLog();

  void append(const nlohmann::json& line);
  void sync();  // durable

  // Drops every line with "step" above `step` and a torn last line; atomic. A missing file is fine.
  // Returns lines kept.
  static int64_t cut_back(const std::filesystem::path& path, int64_t step);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

// Copies what belongs to a Hugging Face folder beside its weights and is there (tokenizer files,
// chat template, config.json, generation_config.json) to `to`. Returns the names copied.
std::vector<std::string> copy_model_files(const std::filesystem::path& from,
                                          const std::filesystem::path& to, bool with_config = true);

}  // namespace hone::io
