#include "train/run.h"

#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/process.h"
#include "exec/profile.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "load/save.h"
#include "train/best_eval.h"
#include "train/checkpointing.h"
#include "train/resume.h"
#include "train/run_log.h"
#include "train/tuning.h"

namespace hone::train {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

// The sign of a NaN means nothing.
double unsigned_nan(double x) { return std::isnan(x) ? std::fabs(x) : x; }

// A sentence if the warm-up takes the whole run, so that the schedule never comes to act; else "".
std::string warmup_warning(int64_t warmup, int64_t steps, double lr) {
  if (warmup < 2 || warmup < steps) return "";
  return fmt::format(
      "the warm-up of {} steps takes the whole run of {}: the learning rate ends at {:.3g} of --lr "
      "{:.3g}; use a smaller --warmup_steps, or train longer",
      warmup, steps, lr * static_cast<double>(steps) / static_cast<double>(warmup), lr);
}

class Run {
 public:
  Run(const TrainerOptions& options, Recipe& recipe, const RunEvents& events)
      : o_(options), recipe_(recipe), model_(recipe.model()), events_(events) {}

  RunEnd run() {
    open_inputs();
    open_folder();
    if (finished_before_) return RunEnd::already_finished;
    try {
      start();
      return train();
    } catch (...) {
      // A run that made no step must not stand in the way of the next try.
      recipe_.stop();
      log_.reset();
      if (done_ == 0 && !folder_->held_a_run()) folder_->abandon();
      throw;
    }
  }

 private:
  void say(const std::string& line) const {
    if (events_.say) events_.say(line);
  }

  void open_inputs() {
    const RunLength length = recipe_.open();
    steps_ = length.steps;
    steps_per_epoch_ = length.steps_per_epoch;
    warmup_ = o_.warmup_steps.value_or(static_cast<int64_t>(0.025 * static_cast<double>(steps_)));
    if (const std::string line = warmup_warning(warmup_, steps_, o_.lr); !line.empty())
      say("warning: " + line);
    micro_batch_tokens_ =
        o_.micro_batch_tokens > 0 ? o_.micro_batch_tokens : kDefaultMicroBatchTokens;
  }

  void open_folder() {
    const std::filesystem::path path = o_.save_dir;
    // The run that is to be overwritten goes when nothing can stop this one from beginning.
    const bool overwrite = o_.existing == io::ExistingRun::overwrite;
    folder_ = std::make_unique<io::RunFolder>(
        io::RunFolder::open(path, overwrite ? io::ExistingRun::resume : o_.existing));
    if (o_.existing != io::ExistingRun::resume) return;
    try {
      resume();
    } catch (...) {
      if (!folder_->held_a_run()) folder_->abandon();
      throw;
    }
  }

  void resume() {
    ResumePoint from = find_resume_point({.folder = *folder_,
                                          .resume_from = o_.resume_from,
                                          .may_start_afresh = o_.resume_auto,
                                          .identity = recipe_.identity(),
                                          .steps = steps_,
                                          .say = [this](const std::string& line) { say(line); }});
    finished_before_ = from.finished;
    if (!from.checkpoint) return;
    checkpoint_ = std::move(from.checkpoint);
    done_ = from.step;
    updates_ = from.updates;
    best_.restore(checkpoint_->state().value("best", Json()));
    if (o_.keep_best && best_.known() && !std::filesystem::exists(best_checkpoint())) {
      say(fmt::format("warning: {} is gone: the best evaluation is looked for anew",
                      best_checkpoint().string()));
      best_ = {};
    }
    // The split into micro-batches decides the last bits of gradients.
    if (o_.micro_batch_tokens == 0) micro_batch_tokens_ = from.micro_batch_tokens;
    if (micro_batch_tokens_ != from.micro_batch_tokens) {
      say(fmt::format(
          "warning: micro-batches of {} tokens instead of {}: the run goes on equal to rounding, "
          "not bit for bit",
          micro_batch_tokens_, from.micro_batch_tokens));
    }
  }

  // The folder becomes this run's: what is in it from now on belongs to this history.
  void claim_folder() {
    if (o_.existing == io::ExistingRun::overwrite) {
      model_.check_weights();  // nothing may stop this run where another one goes for it
      folder_->remove_run();
    }
    std::filesystem::remove(folder_->path() / kFinishedFile);
    io::discard_checkpoints_after(folder_->checkpoints(), done_);
    Json saved = recipe_.config();
    saved["effective"].update({{"dtype", std::string(dtype_name(model_.dtype()))},
                               {"steps", steps_},
                               {"steps_per_epoch", steps_per_epoch_},
                               {"warmup_steps", warmup_},
                               {"micro_batch_tokens", micro_batch_tokens_}});
    folder_->save_config(saved);
    io::MetricsLog::cut_back(folder_->metrics(), done_);
    // A resumed run takes the place of what an earlier one logged from its next step on.
    log_ = std::make_unique<RunLog>(folder_->metrics(), o_.tensorboard_dir,
                                    o_.existing == io::ExistingRun::resume ? done_ + 1 : 0);
  }

  void start() {
    for (const std::string& line : tuning_table(model_)) say(line);
    recipe_.prepare(done_, folder_->path() / ".cache");
    ctx_ = load_to_train(model_, o_);
    recipe_.loaded(ctx_, micro_batch_tokens_);
    adamw_ = make_optimizer(ctx_, o_);
    if (checkpoint_) {
      restore_checkpoint(*checkpoint_, ctx_, model_, *adamw_);
      say(fmt::format("resumed from {} after step {}", checkpoint_->folder().string(), done_));
      checkpoint_.reset();
    }
    claim_folder();
    if (o_.self_check) self_check();
  }

  RunEnd train() {
    const auto begin = Clock::now();
    first_ = done_;
    while (done_ < steps_) {
      if (stopped() && done_ == first_) {
        say(fmt::format("interrupted before step {}; go on with --resume auto", done_ + 1));
        return RunEnd::interrupted;
      }
      const int64_t s = done_;
      const auto step_begin = Clock::now();
      StepMetrics m = one_step(s);
      done_ = s + 1;
      const double seconds = seconds_since(step_begin);
      m.tokens_per_second = seconds > 0 ? static_cast<double>(m.tokens) / seconds : 0;
      m.peak_memory = peak_rss();
      if (s == first_) faults_ = major_faults();
      const bool epoch_end = done_ % steps_per_epoch_ == 0 || done_ == steps_;
      if (recipe_.evaluates() &&
          (o_.eval_steps > 0 ? done_ % o_.eval_steps == 0 || done_ == steps_ : epoch_end))
        evaluate(m);
      log_step(m);
      if (events_.progress) {
        const double each = seconds_since(begin) / static_cast<double>(done_ - first_);
        events_.progress({done_, steps_, m.loss, m.learning_rate, m.grad_norm, m.tokens_per_second,
                          each * static_cast<double>(steps_ - done_), m.tokens, m.peak_memory});
      }
      const bool stop = stopped();
      const BestEval before = best_;
      const bool better = m.eval_loss && best_.add(done_, *m.eval_loss) && o_.keep_best;
      if (done_ < steps_ && (stop || better || (o_.save_steps > 0 && done_ % o_.save_steps == 0))) {
        save(stop);
        // Nothing else holds the best weights.
        if (better && !std::filesystem::exists(best_checkpoint())) best_ = before;
      }
      if (stop && done_ < steps_) {
        say(fmt::format("interrupted after step {}; go on with --resume auto", done_));
        return RunEnd::interrupted;
      }
      if (m.eval_loss && o_.early_stopping > 0 && best_.since() >= o_.early_stopping &&
          done_ < steps_) {
        say(
            fmt::format("stopped early after step {}: {} evaluations in a row were no better than "
                        "step {} (eval loss {:.4f})",
                        done_, best_.since(), best_.step(), best_.loss()));
        break;
      }
    }
    recipe_.finish();
    if (o_.save_steps > 0 && done_ > first_) save(false);
    if (done_ > first_) {
      say(fmt::format("peak memory {:.1f} MiB, {} major page faults after the first step",
                      static_cast<double>(peak_rss()) / (1 << 20), major_faults() - faults_));
    }
    save_result();
    return RunEnd::finished;
  }

  bool stopped() const { return events_.stop != nullptr && events_.stop->load() != 0; }

  // A disk that is full for a checkpoint is full for the log.
  void log_step(const StepMetrics& m) {
    try {
      log_->step(m);
    } catch (const RuntimeError& e) {
      if (o_.on_save_error == OnSaveError::stop) throw;
      if (!log_failed_)
        say(fmt::format("warning: {}; the run goes on without these lines", e.what()));
      log_failed_ = true;
    }
  }

  StepMetrics one_step(int64_t s) {
    StepMetrics m;
    m.step = s + 1;
    m.learning_rate = optim::learning_rate(o_.lr_scheduler, o_.lr, s, steps_, warmup_);
    // The second step of the run: the first one touches memory for the first time.
    const bool profiled = !o_.profile.empty() && s == std::min(first_ + 1, steps_ - 1);
    Profiler profiler;
    if (profiled) ctx_.observer = &profiler;
    StepReport report = gradients(s, micro_batch_tokens_);
    m.tokens = report.tokens;
    m.trained_tokens = report.trained_tokens;
    if (report.trained_tokens == 0) {
      ctx_.observer = nullptr;
      m.skipped = true;
      return m;
    }
    m.loss = report.result.loss;
    m.objective = std::move(report.result.metrics);
    m.grad_norm = optim::gradient_norm(ctx_);
    if (profiled) ctx_.observer = nullptr;
    if (!std::isfinite(m.loss) || !std::isfinite(m.grad_norm)) {
      non_finite(m);
      return m;
    }
    if (profiled) ctx_.observer = &profiler;
    adamw_->step(ctx_, m.learning_rate, optim::clip_scale(m.grad_norm, o_.grad_clip), ++updates_);
    if (profiled) {
      ctx_.observer = nullptr;
      io::write_file_atomically(o_.profile, profiler.chrome_trace());
      say(fmt::format("profile of step {} (trace: {})\n{}", m.step, o_.profile,
                      profiler.table(0, 0)));
    }
    return m;
  }

  // The step's gradients, from zero.
  StepReport gradients(int64_t s, int64_t micro_batch_tokens) {
    ctx_.step = s;
    zero_gradients(ctx_);
    return recipe_.step(ctx_, s, micro_batch_tokens);
  }

  void non_finite(StepMetrics& m) {
    const std::filesystem::path path =
        folder_->path() / fmt::format("nonfinite-step-{}.jsonl", m.step);
    const Recipe::StepSource source = recipe_.last_step();
    io::write_file_atomically(path, source.jsonl);
    const std::string text = fmt::format(
        "step {}: loss {} and gradient norm {} are not finite; samples: {}; the batch is saved as "
        "{} (replay it with --dataset)",
        m.step, unsigned_nan(m.loss), unsigned_nan(m.grad_norm), source.places, path.string());
    if (o_.on_nonfinite == OnNonFinite::stop) {
      const bool kept = keep_last_good();
      runtime_error("nonfinite",
                    "{}; the last update was step {}{}; lower --lr, or go on past such steps with "
                    "{}--on_nonfinite skip",
                    text, m.step - 1, kept ? ", and a checkpoint of it is saved" : "",
                    kept ? "--resume auto " : "");
    }
    m.skipped = true;
    ++skipped_;
    say(fmt::format("warning: {}; skipped ({} so far)", text, skipped_));
  }

  // Before a stop: the state after the last update, beside the checkpoints that are there.
  bool keep_last_good() {
    if (done_ == 0) return false;
    try {
      if (!log_failed_) log_->sync();
      if (done_ > first_) {
        write_checkpoint(/*save_total_limit=*/0);
      }
      return true;
    } catch (const RuntimeError& e) {
      say(fmt::format("warning: {}", e.what()));
      return false;
    }
  }

  Json state() const {
    return {{"step", done_},
            {"updates", updates_},
            {"identity", recipe_.identity()},
            {"micro_batch_tokens", micro_batch_tokens_},
            {"best", best_.state()},
            {"config", recipe_.config()}};
  }

  std::filesystem::path write_checkpoint(int save_total_limit) {
    return save_checkpoint(folder_->checkpoints(), done_, model_, *adamw_, state(),
                           {.save_total_limit = save_total_limit,
                            .keep = o_.keep_best && best_.known() ? best_.step() : -1,
                            .write_more = [this](const std::filesystem::path& folder) {
                              recipe_.write_beside(folder);
                            }});
  }

  void save(bool interrupted) {
    try {
      log_->sync();
      const auto folder = write_checkpoint(o_.save_total_limit);
      say(fmt::format("saved {}", folder.string()));
    } catch (const RuntimeError& e) {
      if (o_.on_save_error == OnSaveError::stop || interrupted) throw;
      say(fmt::format("warning: {}; the last good checkpoint is kept and the run goes on",
                      e.what()));
    }
  }

  std::filesystem::path best_checkpoint() const {
    return io::checkpoint_folder(folder_->checkpoints(), best_.step());
  }

  void restore_best() {
    if (!o_.keep_best || !best_.known()) return;
    if (best_.step() != done_) {
      restore_checkpoint(io::TrainingCheckpoint::open(best_checkpoint()), ctx_, model_, *adamw_);
    }
    say(fmt::format("the result is step {}, with the lowest eval loss ({:.4f})", best_.step(),
                    best_.loss()));
  }

  void save_result() {
    restore_best();
    if (model_.adapter_config()) {
      load::save_adapter(folder_->path(), model_);
      say(fmt::format("saved the adapter in {}", folder_->path().string()));
    } else {
      load::save_model(folder_->path(), model_);
      say(fmt::format("saved the model in {}", folder_->path().string()));
    }
    recipe_.write_beside(folder_->path());
    if (!log_failed_) log_->sync();
    io::write_file_atomically(
        folder_->path() / kFinishedFile,
        Json({{"step", done_}, {"identity", recipe_.identity()}}).dump(1) + "\n");
  }

  void evaluate(StepMetrics& m) {
    const StepResult result = recipe_.evaluate(ctx_, micro_batch_tokens_);
    m.eval_loss = result.loss;
    for (const auto& [name, value] : result.metrics)
      m.objective.emplace_back("eval_" + name, value);
    say(fmt::format("step {}: eval loss {:.4f}", m.step, *m.eval_loss));
    if (o_.eval_samples == 0) return;
    std::string page;
    for (const SampleAnswer& a : recipe_.answers(ctx_)) {
      say(fmt::format("  prompt    {}\n  answer    {}\n  reference {}", a.prompt, a.answer,
                      a.reference));
      page += fmt::format("**prompt** {}\n\n**answer** {}\n\n**reference** {}\n\n---\n\n", a.prompt,
                          a.answer, a.reference);
    }
    log_->text("Samples", page, m.step);
  }

  // Loss and gradient norm of the first step must not depend on how it is split.
  void self_check() {
    const double tolerance = model_.dtype() == DType::bf16 ? 2e-3 : 1e-5;
    double loss[2], norm[2];
    for (int i = 0; i < 2; ++i) {
      const StepReport report = gradients(done_, i == 0 ? micro_batch_tokens_ : 1);
      if (report.trained_tokens == 0) return;
      loss[i] = report.result.loss;
      norm[i] = optim::gradient_norm(ctx_);
    }
    const double loss_gap = std::fabs(loss[0] - loss[1]) / std::max(1e-30, std::fabs(loss[1]));
    const double norm_gap = std::fabs(norm[0] - norm[1]) / std::max(1e-30, std::fabs(norm[1]));
    say(
        fmt::format("self check: packed and one sample at a time give loss {:.7g} and {:.7g} "
                    "(relative gap {:.1e}), gradient norm {:.7g} and "
                    "{:.7g} ({:.1e})",
                    loss[0], loss[1], loss_gap, norm[0], norm[1], norm_gap));
    if (!(loss_gap <= tolerance) || !(norm_gap <= tolerance)) {
      runtime_error("self_check",
                    "the step depends on how it is split into micro-batches by more than rounding "
                    "({:.0e}); please report this "
                    "with the run's configuration",
                    tolerance);
    }
  }

  const TrainerOptions& o_;
  Recipe& recipe_;
  load::Model& model_;  // the recipe's
  const RunEvents& events_;
  std::unique_ptr<io::RunFolder> folder_;
  std::unique_ptr<RunLog> log_;
  std::unique_ptr<optim::AdamW> adamw_;
  Context ctx_;
  std::optional<io::TrainingCheckpoint> checkpoint_;  // to resume from; until start()
  int64_t steps_per_epoch_ = 0, steps_ = 0, warmup_ = 0, micro_batch_tokens_ = 0;
  int64_t done_ = 0, first_ = 0;
  long faults_ = 0;  // major ones, when the first step was done
  BestEval best_;
  int64_t updates_ = 0;  // made so far: what Adam's bias correction counts
  int64_t skipped_ = 0;
  bool finished_before_ = false, log_failed_ = false;
};

}  // namespace

RunEnd run(const TrainerOptions& options, const MakeRecipe& make, const RunEvents& events) {
  Machine machine({.threads = options.threads, .memory_limit = options.arena_limit});
  const std::unique_ptr<Recipe> recipe = make(machine, events.say);
  return Run(options, *recipe, events).run();
}

}  // namespace hone::train
