#include "train/resume.h"

#include <filesystem>
#include <limits>

#include "core/error.h"
#include "io/files.h"

namespace hone::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// UserError for what would make a resumed run another one. what: where `then` was read.
void check_identity(const std::string& what, const Json& then, const Json& now) {
  for (const auto& [key, value] : now.items()) {
    if (then.contains(key) && then[key] == value) continue;
    user_error("resume",
               "{} was made with {} = {}, this run has {}; use the same value, start another run "
               "with --save_dir, or replace this one by --overwrite",
               what, key, then.contains(key) ? then[key].dump() : "nothing", value.dump());
  }
}

bool has_result(const fs::path& folder) {
  for (const char* name :
       {"adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json"}) {
    if (fs::exists(folder / name)) return true;
  }
  return false;
}

// Whether the folder holds this very run, finished.
bool is_finished(const ResumeRequest& r) {
  const fs::path finished = r.folder.path() / kFinishedFile;
  if (!fs::exists(finished) || !has_result(r.folder.path())) return false;
  const Json done = Json::parse(io::read_text_file(finished, 16 << 20), nullptr, false);
  if (!done.is_object()) return false;
  check_identity(r.folder.path().string(), done.value("identity", Json::object()), r.identity);
  return true;
}

[[noreturn]] void bad_state(const io::TrainingCheckpoint& checkpoint, const char* field) {
  user_error("resume",
             "{}: \"{}\" of the saved state makes no sense; resume from another checkpoint",
             checkpoint.folder().string(), field);
}

int64_t count_of(const io::TrainingCheckpoint& checkpoint, const char* field, int64_t most) {
  const auto it = checkpoint.state().find(field);
  if (it == checkpoint.state().end() || !it->is_number_integer()) bad_state(checkpoint, field);
  const auto value = it->get<int64_t>();
  if (value < 0 || value > most) bad_state(checkpoint, field);
  return value;
}

}  // namespace

ResumePoint find_resume_point(const ResumeRequest& r) {
  ResumePoint point;
  std::vector<std::string> skipped;
  if (!r.resume_from.empty()) {
    const bool inside = fs::weakly_canonical(r.resume_from).parent_path() ==
                        fs::weakly_canonical(r.folder.checkpoints());
    if (!inside && r.folder.held_a_run()) {
      user_error("resume",
                 "{} is not a checkpoint of {}, which already holds a run; give --save_dir "
                 "another folder",
                 r.resume_from, r.folder.path().string());
    }
    point.checkpoint = io::TrainingCheckpoint::open(r.resume_from);
  } else {
    if (is_finished(r)) {
      r.say(fmt::format("{} holds a finished run of {} steps; nothing is left to do",
                        r.folder.path().string(), r.steps));
      point.finished = true;
      return point;
    }
    point.checkpoint = io::open_latest_checkpoint(r.folder.checkpoints(), &skipped);
  }
  for (const std::string& line : skipped) r.say("warning: " + line);
  if (!point.checkpoint) {
    if (!skipped.empty()) {
      user_error("resume", "no checkpoint in {} can be used (see above); --overwrite starts afresh",
                 r.folder.checkpoints().string());
    }
    if (!r.may_start_afresh) {
      user_error("resume",
                 "{} has no checkpoint to resume from; use --resume auto to start afresh, or "
                 "--overwrite",
                 r.folder.path().string());
    }
    r.say("no checkpoint to resume from: starting afresh");
    return point;
  }
  const io::TrainingCheckpoint& checkpoint = *point.checkpoint;
  check_identity(checkpoint.folder().string(), checkpoint.state().value("identity", Json::object()),
                 r.identity);
  point.step = count_of(checkpoint, "step", r.steps);
  point.updates = count_of(checkpoint, "updates", point.step);
  if (point.step != checkpoint.step()) bad_state(checkpoint, "step");
  point.micro_batch_tokens =
      count_of(checkpoint, "micro_batch_tokens", std::numeric_limits<int64_t>::max());
  if (point.micro_batch_tokens == 0) bad_state(checkpoint, "micro_batch_tokens");
  return point;
}

}  // namespace hone::train
