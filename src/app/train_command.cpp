#include "app/train_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "app/interrupt.h"
#include "app/pretrained.h"
#include "app/terminal.h"
#include "core/process.h"
#include "io/files.h"
#include "plan/plan.h"
#include "train/run.h"

namespace hone::app {
namespace {

// Keeps to --memory, or warns where the run would not fit.
void plan_first(const TrainRequest& r, ProgressLine& progress) {
  train::TrainerOptions& o = r.options;
  if (o.memory > 0) {
    plan::fit_memory(o, r.make);
    progress.say(fmt::format("memory: {} planned of {}: micro-batches of {} tokens, {}",
                             bytes_text(static_cast<double>(plan::plan_run(o, r.make).peak())),
                             bytes_text(static_cast<double>(o.memory)), o.micro_batch_tokens,
                             o.grad_checkpoint ? "blocks recomputed (-g)" : "activations kept"));
    return;
  }
  const size_t available = available_memory(), needed = plan::plan_run(o, r.make).peak();
  if (available > 0 && needed > available)
    progress.say(fmt::format(
        "warning: about {} are needed and {} are available; give --memory to fit the run into it, "
        "or use {}a smaller --micro_batch_tokens or --max_length",
        bytes_text(static_cast<double>(needed)), bytes_text(static_cast<double>(available)),
        o.grad_checkpoint ? "" : "-g, "));
}

// Quoted for a shell where that is needed.
std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_not_of(
                                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_-./+=:@%,") == std::string::npos;
  if (plain) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string next_step(const train::TrainerOptions& o) {
  const bool adapter = o.lora_rank > 0 || !o.adapter.empty();
  return adapter ? fmt::format("next: hone chat --pretrained {} --adapter {}",
                               shell_word(o.pretrained), shell_word(o.save_dir))
                 : fmt::format("next: hone chat --pretrained {}", shell_word(o.save_dir));
}

}  // namespace

int run_trainer(TrainRequest r) {
  check_pretrained(r.options.pretrained);
  if (!r.config_file.empty()) io::write_file_atomically(r.config_file, r.config() + "\n");
  ProgressLine progress;
  for (const std::string& note : r.notes) progress.say(note);
  plan_first(r, progress);
  train::RunEvents events;
  events.stop = &watch_interrupts();
  events.say = [&](const std::string& line) { progress.say(line); };
  events.progress = [&](const train::RunEvents::Progress& p) {
    progress.update(
        p.step, p.steps,
        fmt::format("loss {:.4f}  lr {:.3g}  {:.0f} tok/s  {}  ETA {}", p.loss, p.learning_rate,
                    p.tokens_per_second, bytes_text(static_cast<double>(p.peak_memory)),
                    duration_text(p.seconds_left)));
  };
  const train::RunEnd end = train::run(r.options, r.make, events);
  if (end == train::RunEnd::finished) progress.say(next_step(r.options));
  return end == train::RunEnd::interrupted ? interrupt_exit_code() : 0;
}

int plan_trainer(TrainRequest r, bool json) {
  check_pretrained(r.options.pretrained);
  for (const std::string& note : r.notes) say(note);
  plan::fit_memory(r.options, r.make);
  const plan::Plan p = plan::plan_run(r.options, r.make);
  Output out;
  out.write(json ? plan::to_json(p).dump(2) + "\n" : plan::to_text(p, r.options));
  out.finish();
  return 0;
}

}  // namespace hone::app
