#include "train/run_log.h"

#include <nlohmann/json.hpp>

namespace hone::train {

RunLog::RunLog(const std::filesystem::path& metrics, const std::string& tensorboard_dir,
               int64_t first_step)
    : metrics_(metrics) {
  if (!tensorboard_dir.empty())
    events_ = std::make_unique<io::EventWriter>(tensorboard_dir, first_step);
}

void RunLog::step(const StepMetrics& m) {
  nlohmann::ordered_json line = {{"step", m.step},
                                 {"loss", m.loss},
                                 {"learning_rate", m.learning_rate},
                                 {"grad_norm", m.grad_norm},
                                 {"tokens", m.tokens},
                                 {"trained_tokens", m.trained_tokens},
                                 {"tokens_per_second", m.tokens_per_second},
                                 {"peak_memory", m.peak_memory}};
  if (m.eval_loss) line["eval_loss"] = *m.eval_loss;
  if (m.skipped) line["skipped"] = true;
  for (const auto& [name, value] : m.objective) line[name] = value;
  metrics_.append(line);
  if (!events_) return;
  events_->scalar("Loss", m.loss, m.step);
  events_->scalar("Learning Rate", m.learning_rate, m.step);
  events_->scalar("Grad Norm", m.grad_norm, m.step);
  events_->scalar("Tokens per second", m.tokens_per_second, m.step);
  events_->scalar("Peak memory (MiB)", static_cast<double>(m.peak_memory) / (1 << 20), m.step);
  if (m.eval_loss) events_->scalar("Eval loss", *m.eval_loss, m.step);
  for (const auto& [name, value] : m.objective) events_->scalar(name, value, m.step);
  events_->flush();
}

void RunLog::text(const std::string& tag, const std::string& text, int64_t step) {
  if (!events_) return;
  events_->text(tag, text, step);
  events_->flush();
}

void RunLog::sync() { metrics_.sync(); }

}  // namespace hone::train
