#include "io/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_fields.h"
#include "io/files.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kTag = "run";
constexpr const char* kRunFile = "run.json";
constexpr const char* kMetricsFile = "metrics.jsonl";
constexpr const char* kCheckpoints = "checkpoints";
constexpr const char* kFinishedFile = "finished.json";
constexpr const char* kLock = ".lock";

bool is_weight_file(const std::string& name) {
  return name == "adapter_model.safetensors" || name == "adapter_config.json" ||
         name == "adapter_model.bin" || name == "pytorch_model.bin" ||
         name == "model.safetensors.index.json" ||
         (name.starts_with("model") && name.ends_with(".safetensors"));
}

std::vector<fs::path> weight_files(const fs::path& folder) {
  std::vector<fs::path> result;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    if (is_weight_file(entry.path().filename().string())) result.push_back(entry.path());
  }
  std::sort(result.begin(), result.end());
  return result;
}

// What a process that was killed while it wrote files left (see AtomicFile). Only under the lock.
void remove_temporaries(const fs::path& folder) {
  std::vector<fs::path> gone;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    const size_t at = name.rfind(".tmp-");
    if (!name.starts_with('.') || at == std::string::npos || !entry.is_regular_file(code)) continue;
    if (name.find_first_not_of("0123456789-", at + 5) == std::string::npos) {
      gone.push_back(entry.path());
    }
  }
  for (const fs::path& path : gone) fs::remove(path, code);
}

void remove_files_of_run(const fs::path& folder) {
  // First, so that nothing says of what is left that it is finished.
  std::vector<fs::path> gone = {folder / kFinishedFile};
  for (const fs::path& path : weight_files(folder)) gone.push_back(path);
  gone.push_back(folder / kMetricsFile);
  gone.push_back(folder / kCheckpoints);
  // Last, so that an interrupted removal still leaves a folder that is known as a run.
  gone.push_back(folder / kRunFile);
  for (const fs::path& path : gone) {
    std::error_code code;
    fs::remove_all(path, code);
    if (code) runtime_error(kTag, "cannot remove {}: {}", path.string(), code.message());
  }
}

}  // namespace

bool holds_a_run(const fs::path& folder) {
  std::error_code code;
  return fs::exists(folder / kRunFile, code) || fs::exists(folder / kMetricsFile, code) ||
         fs::exists(folder / kCheckpoints, code);
}

RunFolder RunFolder::open(const fs::path& path, ExistingRun existing) {
  std::error_code code;
  if (path.empty()) user_error(kTag, "the folder to save to is empty; give --save_dir a path");
  if (fs::exists(path, code) && !fs::is_directory(path, code)) {
    user_error(kTag, "{} is a file; give a folder to save to", path.string());
  }
  const bool was_run = holds_a_run(path);
  const bool was_there = fs::exists(path, code);
  if (!was_run) {
    if (const auto weights = weight_files(path); !weights.empty()) {
      user_error(
          kTag, "{} already holds {}, which no run of hone wrote; choose another folder to save to",
          path.string(), weights.front().filename().string());
    }
  } else if (existing == ExistingRun::refuse) {
    user_error(kTag,
               "{} already holds a run; choose another folder, go on with it by --resume auto, or "
               "replace it by --overwrite",
               path.string());
  }
  fs::create_directories(path, code);
  if (code) runtime_error(kTag, "cannot create {}: {}", path.string(), code.message());

  RunFolder folder;
  folder.path_ = path;
  folder.created_ = !was_there;
  const fs::path lock = path / kLock;
  folder.lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (folder.lock_ < 0) {
    runtime_error(kTag, "cannot write into {}: {}; choose a folder that can be written",
                  path.string(), std::strerror(errno));
  }
  // Held by the open file, so that it ends with the process however that ends.
  if (flock(folder.lock_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      user_error(kTag, "another process is writing into {}; wait for it or choose another folder",
                 path.string());
    }
    if (errno != ENOLCK && errno != EOPNOTSUPP && errno != ENOSYS) {
      runtime_error(kTag, "cannot lock {}: {}", lock.string(), std::strerror(errno));
    }
  }
  remove_temporaries(path);
  if (was_run && existing == ExistingRun::overwrite) remove_files_of_run(path);
  folder.held_a_run_ = was_run && existing == ExistingRun::resume;
  fs::create_directories(folder.checkpoints(), code);
  if (code) {
    runtime_error(kTag, "cannot create {}: {}", folder.checkpoints().string(), code.message());
  }
  return folder;
}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)),
      lock_(std::exchange(other.lock_, -1)),
      held_a_run_(other.held_a_run_),
      created_(other.created_) {}

RunFolder::~RunFolder() {
  if (lock_ >= 0) close(lock_);
}

void RunFolder::remove_run() const {
  remove_files_of_run(path_);
  std::error_code code;
  fs::create_directories(checkpoints(), code);
  if (code) runtime_error(kTag, "cannot create {}: {}", checkpoints().string(), code.message());
}

void RunFolder::abandon() const {
  HONE_CHECK(!held_a_run_);
  std::error_code code;
  fs::remove(config(), code);
  if (fs::file_size(metrics(), code) == 0 && !code) fs::remove(metrics(), code);
  fs::remove(checkpoints(), code);  // fails unless empty
  fs::remove_all(path_ / ".cache", code);
  fs::remove(path_ / kLock, code);
  if (created_) fs::remove(path_, code);
}

void RunFolder::save_config(const nlohmann::json& effective) const {
  write_file_atomically(
      config(), effective.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

std::optional<nlohmann::json> RunFolder::load_config() const {
  std::error_code code;
  if (!fs::exists(config(), code)) return std::nullopt;
  return parse_json_object(read_text_file(config(), 16u << 20), kTag, config().string());
}

MetricsLog::MetricsLog(const fs::path& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    runtime_error(kTag, "cannot write {}: {}", path.string(), std::strerror(errno));
  }
}

MetricsLog::~MetricsLog() {
  if (fd_ >= 0) close(fd_);
}

void MetricsLog::append(const nlohmann::json& line) {
  HONE_CHECK(line.is_object() && line.contains("step"));
  const std::string text =
      line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = n < 0 ? errno : EIO;
      // A torn line would join with the next.
      if (done > 0) {
        const off_t end = lseek(fd_, 0, SEEK_END);
        if (end >= static_cast<off_t>(done) &&
            ftruncate(fd_, end - static_cast<off_t>(done)) != 0) {
          // The line stays torn; cut_back() drops it.
        }
      }
      runtime_error(kTag, "cannot write {}: {}; free some space", path_.string(),
                    std::strerror(error));
    }
    done += static_cast<size_t>(n);
  }
}

void MetricsLog::sync() {
  if (fdatasync(fd_) != 0 && errno != EINVAL) {
    runtime_error(kTag, "cannot write {}: {}", path_.string(), std::strerror(errno));
  }
}

int64_t MetricsLog::cut_back(const fs::path& path, int64_t step) {
  std::error_code code;
  if (!fs::exists(path, code)) return 0;
  int64_t kept = 0;
  {
    const MappedFile file(path);
    const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
    AtomicFile out(path, file.size());
    size_t at = 0;
    while (at < text.size()) {
      const size_t end = text.find('\n', at);
      if (end == std::string_view::npos) break;  // torn
      const std::string_view line = text.substr(at, end - at);
      at = end + 1;
      const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
      if (!json.is_object()) continue;
      const auto it = json.find("step");
      if (it == json.end() || !it->is_number_integer() || it->get<int64_t>() > step) continue;
      out.append(line);
      out.append("\n");
      ++kept;
    }
    out.commit();
  }
  return kept;
}

std::vector<std::string> copy_model_files(const fs::path& from, const fs::path& to,
                                          bool with_config) {
  static constexpr std::array<const char*, 12> kFiles = {"tokenizer.json",
                                                         "tokenizer_config.json",
                                                         "special_tokens_map.json",
                                                         "added_tokens.json",
                                                         "vocab.json",
                                                         "merges.txt",
                                                         "tokenizer.model",
                                                         "vocab.txt",
                                                         "chat_template.jinja",
                                                         "chat_template.json",
                                                         "generation_config.json",
                                                         "config.json"};
  std::vector<std::string> copied;
  std::error_code code;
  if (fs::equivalent(from, to, code)) return copied;
  fs::create_directories(to, code);
  if (code) runtime_error(kTag, "cannot create {}: {}", to.string(), code.message());
  for (const std::string name : kFiles) {
    if (name == "config.json" && !with_config) continue;
    if (!fs::is_regular_file(from / name, code)) continue;
    copy_file_atomically(from / name, to / name);
    copied.push_back(name);
  }
  // Named templates of newer folders.
  const fs::path templates = from / "additional_chat_templates";
  if (fs::is_directory(templates, code)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(templates, code)) {
      const std::string name = entry.path().filename().string();
      if (!name.ends_with(".jinja") || !entry.is_regular_file(code)) continue;
      fs::create_directories(to / "additional_chat_templates", code);
      copy_file_atomically(entry.path(), to / "additional_chat_templates" / name);
      copied.push_back("additional_chat_templates/" + name);
    }
  }
  return copied;
}

}  // namespace hone::io
