#include "train/options.h"

#include <cmath>

#include "core/error.h"

namespace hone::train {
namespace {

void positive(const char* flag, int64_t value) {
  if (value < 1) user_error(flag, "{} is not a count; use 1 or more", value);
}

// Keeps products of counts far from overflow.
void at_most(const char* flag, int64_t value, int64_t most) {
  if (value > most) user_error(flag, "{} is more than {}; use less", value, most);
}

void not_negative(const char* flag, double value) {
  if (!(value >= 0) || !std::isfinite(value))
    user_error(flag, "{} is not usable; use 0 or a positive number", value);
}

}  // namespace

void check_options(const TrainerOptions& o) {
  if (o.pretrained.empty())
    user_error("pretrained", "no model folder was given; use --pretrained DIR");
  positive("num_epochs", o.num_epochs);
  positive("batch_size", o.batch_size);
  positive("accumulation_steps", o.accumulation_steps);
  at_most("num_epochs", o.num_epochs, 1'000'000);
  at_most("batch_size", o.batch_size, 1'000'000'000);
  at_most("accumulation_steps", o.accumulation_steps, 1'000'000'000);
  if (o.max_length < 2)
    user_error("max_length", "{} leaves nothing to predict; use 2 or more", o.max_length);
  if (o.max_steps < 0) user_error("max_steps", "{} is negative; use 0 for no limit", o.max_steps);
  if (!(o.lr > 0) || !std::isfinite(o.lr))
    user_error("lr", "{} is not a learning rate; use a positive number such as 2e-5", o.lr);
  not_negative("weight_decay", o.weight_decay);
  not_negative("grad_clip", o.grad_clip);
  if (!(o.adam_beta1 >= 0 && o.adam_beta1 < 1))
    user_error("adam_beta1", "{} is not in [0, 1)", o.adam_beta1);
  if (!(o.adam_beta2 >= 0 && o.adam_beta2 < 1))
    user_error("adam_beta2", "{} is not in [0, 1)", o.adam_beta2);
  if (!(o.adam_eps > 0) || !std::isfinite(o.adam_eps))
    user_error("adam_eps", "{} is not a positive number", o.adam_eps);
  if (o.lora_rank < 0 || o.lora_rank > 4096) {
    user_error("lora_rank", "{} is not usable; use 0 for full tuning or 1 to 4096", o.lora_rank);
  }
  if (o.lora_rank > 0 || !o.adapter.empty()) {
    if (!(o.lora_dropout >= 0 && o.lora_dropout < 1))
      user_error("lora_dropout", "{} is not in [0, 1)", o.lora_dropout);
    if (!(o.lora_alpha > 0) || !std::isfinite(o.lora_alpha))
      user_error("lora_alpha", "{} is not a positive number", o.lora_alpha);
    if (!o.freeze.empty())
      user_error(
          "freeze",
          "with LoRA the base model is frozen anyway; leave --freeze out or use --lora_rank 0");
  }
  if (o.warmup_steps && *o.warmup_steps < 0)
    user_error("warmup_steps", "{} is negative; use auto for 2.5% of all steps", *o.warmup_steps);
  if (o.save_steps < 0)
    user_error("save_steps", "{} is negative; use 0 to save at the end only", o.save_steps);
  if (o.save_total_limit < 0)
    user_error("save_total_limit", "{} is negative; use 0 to keep all", o.save_total_limit);
  if (o.eval_steps < 0)
    user_error("eval_steps", "{} is negative; use 0 for the end of each epoch", o.eval_steps);
  if (o.early_stopping < 0)
    user_error("early_stopping", "{} is negative; use 0 for a run that isn't ended early",
               o.early_stopping);
  if (o.eval_dataset.empty() && (o.keep_best || o.early_stopping > 0))
    user_error(o.keep_best ? "keep_best" : "early_stopping",
               "there is nothing to evaluate on; give --eval_dataset too");
  if (o.eval_steps > 0 && o.eval_dataset.empty())
    user_error("eval_steps", "there is nothing to evaluate on; give --eval_dataset too");
  if (o.micro_batch_tokens < 0)
    user_error("micro_batch_tokens", "{} is negative; use 0 to let hone choose",
               o.micro_batch_tokens);
  if (o.threads < 0) user_error("threads", "{} is negative; use 0 for all", o.threads);
  if (o.dtype == DType::f64) user_error("dtype", "fp64 is not for training; use bf16 or fp32");
}

}  // namespace hone::train
