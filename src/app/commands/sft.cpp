// hone sft: supervised fine-tuning.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "app/commands/commands.h"
#include "app/commands/sft_flags.h"
#include "app/interrupt.h"
#include "app/pretrained.h"
#include "app/terminal.h"
#include "core/process.h"
#include "io/files.h"
#include "plan/plan.h"
#include "train/sft_options.h"

namespace hone::app {
namespace {

// Keeps to --memory, or warns where the run would not fit.
train::SftOptions planned(const train::SftOptions& asked, ProgressLine& progress) {
  if (asked.memory > 0) {
    const train::SftOptions o = plan::fit_memory(asked);
    progress.say(fmt::format("memory: {} planned of {}: micro-batches of {} tokens, {}",
                             bytes_text(static_cast<double>(plan::plan_sft(o).peak())),
                             bytes_text(static_cast<double>(o.memory)), o.micro_batch_tokens,
                             o.grad_checkpoint ? "blocks recomputed (-g)" : "activations kept"));
    return o;
  }
  const size_t available = available_memory(), needed = plan::plan_sft(asked).peak();
  if (available > 0 && needed > available)
    progress.say(fmt::format(
        "warning: about {} are needed and {} are available; give --memory to fit the run into it, "
        "or use {}a smaller --micro_batch_tokens or --max_length",
        bytes_text(static_cast<double>(needed)), bytes_text(static_cast<double>(available)),
        asked.grad_checkpoint ? "" : "-g, "));
  return asked;
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

std::string next_step(const train::SftOptions& o) {
  const bool adapter = o.lora_rank > 0 || !o.adapter.empty();
  return adapter ? fmt::format("next: hone chat --pretrained {} --adapter {}",
                               shell_word(o.pretrained), shell_word(o.save_dir))
                 : fmt::format("next: hone chat --pretrained {}", shell_word(o.save_dir));
}

int run(SftRequest request) {
  check_pretrained(request.options.pretrained);
  if (!request.config_file.empty())
    io::write_file_atomically(request.config_file,
                              train::options_json(request.options).dump(2) + "\n");
  ProgressLine progress;
  for (const std::string& note : request.notes) progress.say(note);
  request.options = planned(request.options, progress);
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
  const train::RunEnd end = train::run_sft(request.options, events);
  if (end == train::RunEnd::finished) progress.say(next_step(request.options));
  return end == train::RunEnd::interrupted ? interrupt_exit_code() : 0;
}

}  // namespace

void add_sft(Cli& cli) {
  Command& c = cli.add("sft", "fine-tune a model on examples: LoRA or all weights",
                       "Loss counts exactly what the model must write: the assistant's words and "
                       "its end of turn.\nhone show tells token by token what that is.");
  const auto flags = add_sft_flags(c);
  c.run([&c, flags] { return run(sft_request(c, *flags)); });
}

}  // namespace hone::app
