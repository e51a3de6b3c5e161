// The options of trainers, in groups that they share. Each is declared once, by its line in
// fields(): name, help, place in run.json (train/field.h); the default is the member's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "train/field.h"

namespace hone::train {

// Of --micro_batch_tokens 0, where no --memory asks for less.
constexpr int64_t kDefaultMicroBatchTokens = 2048;

struct ModelOptions {
  std::string pretrained;
  std::string adapter;         // an existing PEFT adapter to go on from
  std::optional<DType> dtype;  // null: auto

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.pretrained,
      {"pretrained", "The model: a Hugging Face folder (config.json, safetensors, tokenizer.json)",
       "-m,--pretrained,--pretrain", "DIR", Saved::kFree});
    v(o.adapter, {"adapter", "Go on from this PEFT adapter; it gives rank, alpha and targets",
                  nullptr, "DIR", Saved::kFree});
    v(o.dtype, {"dtype", "What to compute in; auto: the model's type, bf16 for fp16 models"});
  }
};

struct DataOptions {
  std::vector<std::string> dataset;
  std::vector<std::string> eval_dataset;
  data::TextModelOptions text;
  std::string system_prompt;
  int64_t max_length = 8192;
  bool shuffle = true;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.dataset, {"dataset", "Data: JSONL, JSON or text files, folders of them", "-d,--dataset",
                  "FILE...", Saved::kFree});
    v(o.eval_dataset, {"eval_dataset", "Data that is not trained on, for the eval loss", nullptr,
                       "FILE...", Saved::kFree});
    v(o.text.conversation_template,
      {"conversation_template",
       "Chat template instead of the model's: a Jinja file (.jinja), the original's JSON form, a "
       "folder with one, or the name of another one of the model's",
       "--conversation_template,--chat_template", "FILE", Saved::kFree});
    v(o.text.template_kwargs,
      {"template_kwargs",
       "Variables for the chat template, such as enable_thinking=false or a JSON object",
       "--template_kwargs,--chat_template_kwargs", "JSON"});
    v(o.text.eos_token,
      {"eos_token", "What ends an answer or a text, instead of what the model and its template say",
       nullptr, "TOKEN|ID..."});
    v(o.system_prompt, {"system_prompt", "Put before chats that have no system message"});
    v(o.max_length,
      {"max_length", "Tokens of a sequence, cut on the right", "--max_length,--max_len"});
    v(o.shuffle, {"shuffle", "A new order every epoch"});
  }
};

struct TuneOptions {
  int64_t lora_rank = 0;  // 0: full tuning, as in the original
  double lora_alpha = 8;
  double lora_dropout = 0;
  bool use_rslora = false;
  std::vector<std::string> lora_target = {"all-linear"};
  std::vector<int64_t> lora_layers;  // empty: all
  std::vector<std::string> freeze;   // full tuning: patterns (* and ?) of parameters left as is

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.lora_rank, {"lora_rank", "Rank of the LoRA adapter; 0: full tuning"});
    v(o.lora_alpha, {"lora_alpha", "Scale: the adapter counts alpha / rank"});
    v(o.lora_dropout, {"lora_dropout", "Dropout on the adapter's input"});
    v(o.use_rslora, {"use_rslora", "Scale by alpha / sqrt(rank) instead"});
    v(o.lora_target,
      {"lora_target",
       "Layers with an adapter: names (q_proj,v_proj), suffixes, a regular expression, or "
       "all-linear: every linear layer of the blocks",
       nullptr, "NAME..."});
    v(o.lora_layers, {"lora_layers", "Only these blocks, such as 0,1,5-7"});
    v(o.freeze, {"freeze", "Full tuning: parameters that stay as they are (model.embed_tokens.*)",
                 nullptr, "PATTERN..."});
  }
};

// What gets no weight decay.
struct NoDecay {
  bool norm = false, bias = false;
  bool operator==(const NoDecay&) const = default;
};

struct OptimOptions {
  int64_t num_epochs = 1;
  int64_t max_steps = 0;
  int64_t batch_size = 2;
  int64_t accumulation_steps = 1;
  double lr = 3e-4;
  optim::Schedule lr_scheduler = optim::Schedule::cosine;
  std::optional<int64_t> warmup_steps;
  double weight_decay = 0.1;
  NoDecay no_decay;
  double adam_beta1 = 0.9, adam_beta2 = 0.95, adam_eps = 1e-8;
  double grad_clip = 1.0;
  uint64_t seed = 42;
  OnNonFinite on_nonfinite = OnNonFinite::stop;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.num_epochs, {"num_epochs", "Passes over the data", "-n,--num_epochs,--max_epochs"});
    v(o.max_steps, {"max_steps", "Optimizer steps instead; 0: as many as the epochs have"});
    v(o.batch_size, {"batch_size", "Samples of an optimizer step ..."});
    v(o.accumulation_steps, {"accumulation_steps", "... times this"});
    v(o.lr, {"lr", "Learning rate"});
    v(o.lr_scheduler,
      {"lr_scheduler", "After the warm-up: cosine to a tenth, linear to 0, or constant"});
    v(o.warmup_steps, {"warmup_steps", "Steps of linear warm-up; not given or auto: 2.5% of all"});
    v(o.weight_decay, {"weight_decay", "AdamW's decay, on every trained tensor"});
    v(o.no_decay, {"no_decay", "No decay on norm (normalisation weights), bias, or both"});
    v(o.adam_beta1, {"adam_beta1", "AdamW's beta 1"});
    v(o.adam_beta2, {"adam_beta2", "AdamW's beta 2"});
    v(o.adam_eps, {"adam_eps", "AdamW's epsilon"});
    v(o.grad_clip, {"grad_clip", "Largest global norm of the gradient; 0: not clipped"});
    v(o.seed, {"seed", "Of order, dropout and adapter initialisation"});
    v(o.on_nonfinite,
      {"on_nonfinite", "A step whose loss or gradient isn't finite: stop, or skip and count it",
       nullptr, nullptr, Saved::kFree});
  }
};

struct MachineOptions {
  bool grad_checkpoint = false;
  int64_t micro_batch_tokens = 0;
  ByteCount memory;          // 0: no promise asked for
  ByteCount weights_memory;  // 0: mapped files, or what the planner sets for memory
  int threads = 0;
  // Bytes of tensors, set by the planner from memory; past it the run ends with an error; 0: none.
  size_t arena_limit = 0;
  std::string profile;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.grad_checkpoint,
      {"grad_checkpoint",
       "Keep only the blocks' inputs and compute the rest again: less memory, a third more work",
       "-g,--use_grad_checkpoint,--grad_checkpoint", nullptr, Saved::kFree});
    v(o.micro_batch_tokens,
      {"micro_batch_tokens", "Tokens computed at once; memory follows it, results don't; 0: chosen",
       nullptr, nullptr, Saved::kFree});
    v(o.memory, {"memory", "Stay below this much memory", nullptr, nullptr, Saved::kFree});
    v(o.weights_memory,
      {"weights_memory",
       "Read frozen weights from disk as they are needed, into this much memory; --memory does so "
       "by itself where they have no room",
       nullptr, nullptr, Saved::kFree});
    v(o.threads, {"threads", "Threads; 0: all cores", nullptr, nullptr, Saved::kFree});
    v(o.profile,
      {"profile", "Write a Chrome trace of one step here", nullptr, "FILE", Saved::kNot});
  }
};

struct OutputOptions {
  std::string save_dir = "checkpoint_dir";
  io::ExistingRun existing = io::ExistingRun::refuse;  // --resume, --overwrite
  bool resume_auto = false;  // --resume auto: afresh where there is nothing to resume
  std::string resume_from;   // --resume DIR: a checkpoint folder
  int64_t save_steps = 0;
  int save_total_limit = 2;
  OnSaveError on_save_error = OnSaveError::stop;
  std::string tensorboard_dir;
  int64_t eval_steps = 0;
  bool keep_best = false;
  int64_t early_stopping = 0;
  int64_t eval_samples = 3;
  int64_t eval_max_new_tokens = 64;
  bool self_check = false;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.save_dir,
      {"save_dir", "The run's folder: adapter or weights, run.json, metrics.jsonl, checkpoints/",
       "--save_dir,--save_path", "DIR", Saved::kFree});
    v(o.existing, {"existing", nullptr, nullptr, nullptr, Saved::kFree});
    v(o.save_steps,
      {"save_steps", "Save a checkpoint every N steps; 0: only at the end and on Ctrl-C",
       "--save_steps,--save_interval", nullptr, Saved::kFree});
    v(o.save_total_limit,
      {"save_total_limit", "Checkpoints kept; 0: all", nullptr, nullptr, Saved::kFree});
    v(o.on_save_error,
      {"on_save_error",
       "A checkpoint can't be written (a full disk): stop, or go on with the last good one",
       nullptr, nullptr, Saved::kFree});
    v(o.tensorboard_dir, {"tensorboard_dir", "TensorBoard events go here",
                          "--tensorboard_dir,--log_dir", "DIR", Saved::kFree});
    v(o.eval_steps, {"eval_steps", "Evaluate every N steps; 0: after each epoch", nullptr, nullptr,
                     Saved::kFree});
    v(o.keep_best,
      {"keep_best", "The result is the state with the lowest eval loss, whose checkpoint is kept"});
    v(o.early_stopping,
      {"early_stopping",
       "End the run after N evaluations in a row that lowered the eval loss no further; 0: never"});
    v(o.eval_samples,
      {"eval_samples", "Answers shown at an evaluation", nullptr, nullptr, Saved::kFree});
    v(o.eval_max_new_tokens,
      {"eval_max_new_tokens", "Longest of them, in tokens", nullptr, nullptr, Saved::kFree});
    v(o.self_check, {"self_check", "First show that the step does not depend on how it is packed",
                     nullptr, nullptr, Saved::kNot});
  }
};

// What every trainer has.
struct TrainerOptions : ModelOptions,
                        DataOptions,
                        TuneOptions,
                        OptimOptions,
                        MachineOptions,
                        OutputOptions {
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    ModelOptions::fields(o, v);
    DataOptions::fields(o, v);
    TuneOptions::fields(o, v);
    OptimOptions::fields(o, v);
    MachineOptions::fields(o, v);
    OutputOptions::fields(o, v);
  }
};

// UserError for values that make no sense or contradict each other.
void check_options(const TrainerOptions& o);

// What hone sft reads of its records.
struct SftDataOptions {
  data::DatasetFormat dataset_format = data::DatasetFormat::kAuto;
  std::string dataset_info;
  bool append_eos = true;
  TrainOn train_on = TrainOn::kAssistant;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.dataset_format,
      {"dataset_format", "What a record is: chats, ShareGPT, Alpaca, plain text, token lists"});
    v(o.dataset_info,
      {"dataset_info", "LLaMA-Factory's dataset_info.json: then --dataset takes names in it",
       nullptr, "FILE", Saved::kFree});
    v(o.append_eos,
      {"append_eos",
       "The end-of-text token behind plain texts ({\"text\"}, {\"prompt\", \"completion\"})"});
    v(o.train_on,
      {"train_on", "Tokens that are trained: assistant turns, the last of them, or every token"});
  }
};

struct SftOptions : TrainerOptions, SftDataOptions {
  static constexpr const char* kCommand = "sft";

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    TrainerOptions::fields(o, v);
    SftDataOptions::fields(o, v);
  }
};

// What losses with a reference compare with.
struct ReferenceOptions {
  Reference reference = Reference::start;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.reference,
      {"reference",
       "Log-probs are compared with those of the model as it was loaded, adapter included (start), "
       "or of the base model alone"});
  }
};

// Losses over pairs of answers (loss/preference.h).
struct PairLossOptions : ReferenceOptions {
  std::vector<std::string> loss = {"sigmoid"};
  std::vector<double> loss_weights;
  double beta = 0.1;
  double label_smoothing = 0;
  std::string f_divergence_type = "reverse_kl";
  double f_alpha_divergence_coef = 0.5;
  std::optional<double> ld_alpha;
  double discopop_tau = 0.05;
  std::optional<double> cpo_alpha;  // null: 1, and 0 for simpo
  double simpo_gamma = 0.5;
  double alpha = 0;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.loss, {"loss",
               "sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, aot, "
               "aot_unpaired, apo_zero, apo_down, discopop, sft, sigmoid_norm, several of which "
               "are added up; or one of cpo, simpo, alphapo, orpo, which need no reference",
               "--loss,--loss_type", "NAME..."});
    v(o.loss_weights, {"loss_weights", "One a loss"});
    v(o.beta, {"beta", "How strongly the reference holds"});
    v(o.label_smoothing, {"label_smoothing", "Of exo_pair, robust, aot, aot_unpaired, cpo, simpo"});
    v(o.f_divergence_type,
      {"f_divergence_type", "reverse_kl, forward_kl, js_divergence or alpha_divergence", nullptr,
       "NAME"});
    v(o.f_alpha_divergence_coef, {"f_alpha_divergence_coef", "Of alpha_divergence"});
    v(o.ld_alpha, {"ld_alpha", "LD-DPO: what tokens behind the shorter answer's length count"});
    v(o.discopop_tau, {"discopop_tau", "Of discopop"});
    v(o.cpo_alpha, {"cpo_alpha",
                    "Weight of the chosen answers' NLL in cpo and simpo; not given: 1, for simpo "
                    "and alphapo 0"});
    v(o.simpo_gamma, {"simpo_gamma", "Margin of simpo and alphapo"});
    v(o.alpha, {"alpha", "AlphaPO's shape of the reward; 0: none"});
    ReferenceOptions::fields(o, v);
  }
};

// KTO's losses over labelled answers (loss/preference.h).
struct LabelLossOptions : ReferenceOptions {
  std::string loss = "kto";
  double beta = 0.1;
  double desirable_weight = 1, undesirable_weight = 1;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v(o.loss,
      {"loss", "kto, or apo_zero_unpaired, which needs no KL term", "--loss,--loss_type", "NAME"});
    v(o.beta, {"beta", "How strongly the reference holds"});
    v(o.desirable_weight, {"desirable_weight", "What answers labelled true count"});
    v(o.undesirable_weight, {"undesirable_weight", "What answers labelled false count"});
    ReferenceOptions::fields(o, v);
  }
};

struct KtoOptions : TrainerOptions, LabelLossOptions {
  static constexpr const char* kCommand = "kto";
  KtoOptions() { lr = 5e-6; }  // the original's

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    TrainerOptions::fields(o, v);
    LabelLossOptions::fields(o, v);
  }
};

struct DpoOptions : TrainerOptions, PairLossOptions {
  static constexpr const char* kCommand = "dpo";
  DpoOptions() { lr = 5e-6; }  // the original's

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    TrainerOptions::fields(o, v);
    PairLossOptions::fields(o, v);
  }
};

}  // namespace hone::train
