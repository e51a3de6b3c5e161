#include "app/foreign_flags.h"

#include <algorithm>
#include <array>

namespace hone::app {
namespace {

constexpr std::string_view kLora = "use --lora_rank 8 for a LoRA adapter, or 0 for the whole model";
constexpr std::string_view kPrecision = "use --dtype bf16 or --dtype fp32";
constexpr std::string_view kCores = "samples are prepared on all cores by themselves; leave it out";
constexpr std::string_view kLogged =
    "every step is logged, to metrics.jsonl and --tensorboard_dir; leave it out";
constexpr std::string_view kNothingOut =
    "nothing is sent out; use --tensorboard_dir DIR, or read metrics.jsonl in the run's folder";
constexpr std::string_view kMemory =
    "memory follows --micro_batch_tokens, or is kept by --memory; leave it out";
constexpr std::string_view kEval = "give --eval_dataset, and --eval_steps N or 0 for each epoch";
constexpr std::string_view kSave = "use --save_steps N; 0 saves at the end only";
constexpr std::string_view kSplit =
    "whole files are read; put what is meant in a file of its own, for --dataset or --eval_dataset";
constexpr std::string_view kWhole =
    "an adapter tunes linear layers; --lora_rank 0 tunes all weights, and --freeze keeps some";
constexpr std::string_view kMask = "use --train_on assistant, last or all";
constexpr std::string_view kOneProcess = "one process uses all cores; leave it out";
constexpr std::string_view kTemplate =
    "the model's own chat template is used; another one is given by --conversation_template FILE";
constexpr std::string_view kQuantised = "the base is used as it lies in its file; leave it out";
constexpr std::string_view kFixed = "samples are packed without padding, always; leave it out";
constexpr std::string_view kGenerate = "use --temperature 0 for the likeliest tokens";

constexpr auto kFlags = std::to_array<ForeignFlag>({
    // the model
    {"model_name_or_path", "--pretrained", ""},
    {"model_name", "--pretrained", ""},
    {"model", "--pretrained", ""},
    {"base_model", "--pretrained", ""},
    {"model_path", "--pretrained", ""},
    {"adapter_name_or_path", "--adapter", ""},
    {"adapter_path", "--adapter", ""},
    {"lora_path", "--adapter", ""},
    {"lora_model_dir", "--adapter", ""},
    {"peft_model_id", "--adapter", ""},
    {"torch_dtype", "--dtype", ""},
    {"model_dtype", "--dtype", ""},
    {"bf16", "", kPrecision},
    {"fp16", "", kPrecision},
    {"tf32", "", kPrecision},
    {"load_in_4bit", "", kQuantised},
    {"load_in_8bit", "", kQuantised},
    {"attn_implementation", "", "attention is computed in blocks, always; leave it out"},
    {"flash_attention", "", "attention is computed in blocks, always; leave it out"},
    {"flash_attn", "", "attention is computed in blocks, always; leave it out"},
    {"use_liger_kernel", "", "the loss never holds all logits; leave it out"},
    {"quantization_bit", "", kQuantised},
    {"pure_bf16", "", kPrecision},
    {"padding_side", "", kFixed},
    {"pad_token", "", kFixed},
    {"revision", "", "nothing is downloaded; give the folder of that revision to --pretrained"},
    {"trust_remote_code", "", "no code of a model folder is run; leave it out"},
    // the data
    {"dataset_name", "--dataset", ""},
    {"dataset_path", "--dataset", ""},
    {"datasets", "--dataset", ""},
    {"data_path", "--dataset", ""},
    {"train_file", "--dataset", ""},
    {"train_data", "--dataset", ""},
    {"eval_data", "--eval_dataset", ""},
    {"eval_file", "--eval_dataset", ""},
    {"validation_file", "--eval_dataset", ""},
    {"max_seq_length", "--max_length", ""},
    {"max_seq_len", "--max_length", ""},
    {"cutoff_len", "--max_length", ""},
    {"sequence_len", "--max_length", ""},
    {"model_max_length", "--max_length", ""},
    {"system", "--system_prompt", ""},
    {"default_system", "--system_prompt", ""},
    {"template", "", kTemplate},
    {"chat_template_path", "--conversation_template", ""},
    {"assistant_only_loss", "", kMask},
    {"completion_only_loss", "", kMask},
    {"train_on_inputs", "", kMask},
    {"train_on_prompt", "", kMask},
    {"mask_history", "", kMask},
    {"packing", "", kFixed},
    {"sample_packing", "", kFixed},
    {"pad_to_sequence_len", "", kFixed},
    {"group_by_length", "", kFixed},
    {"dataset_text_field", "", "plain texts are records {\"text\": ...}; name the field so"},
    {"dataset_dir", "", "use --dataset_info FILE, LLaMA-Factory's dataset_info.json"},
    {"dataset_num_proc", "", kCores},
    {"preprocessing_num_workers", "", kCores},
    {"dataloader_num_workers", "", kCores},
    {"max_samples", "", kSplit},
    {"val_size", "", kSplit},
    {"val_set_size", "", kSplit},
    {"dataset_train_split", "", kSplit},
    {"dataset_test_split", "", kSplit},
    {"dataset_config", "", kSplit},
    {"overwrite_cache", "", "what is kept follows the data's content; leave it out"},
    {"remove_unused_columns", "", "fields that aren't used are listed and left; leave it out"},
    {"streaming", "", "only an index of the data is held in memory, always; leave it out"},
    // what is tuned
    {"use_peft", "", kLora},
    {"use_dora", "", "adapters are LoRA, with --use_rslora if wanted; leave it out"},
    {"modules_to_save", "", kWhole},
    {"lora_modules_to_save", "", kWhole},
    {"additional_target", "", kWhole},
    {"lora_bias", "", "adapters have no biases; leave it out"},
    {"lora_task_type", "", "it is CAUSAL_LM, always; leave it out"},
    {"finetuning_type", "", kLora},
    {"peft_type", "", kLora},
    {"lora_r", "--lora_rank", ""},
    {"lora_target_modules", "--lora_target", ""},
    {"target_modules", "--lora_target", ""},
    {"layers_to_transform", "--lora_layers", ""},
    {"gradient_checkpointing", "--grad_checkpoint", ""},
    {"enable_activation_checkpointing", "--grad_checkpoint", ""},
    {"freeze_modules", "--freeze", ""},
    // optimisation
    {"learning_rate", "--lr", ""},
    {"num_train_epochs", "--num_epochs", ""},
    {"epochs", "--num_epochs", ""},
    {"max_train_steps", "--max_steps", ""},
    {"per_device_train_batch_size", "--batch_size", ""},
    {"train_batch_size", "", "use --batch_size, samples a time, and --accumulation_steps of them"},
    {"global_batch_size", "", "use --batch_size, samples a time, and --accumulation_steps of them"},
    {"neftune_noise_alpha", "", "no noise is added to embeddings; leave it out"},
    {"micro_batch_size", "--batch_size", ""},
    {"per_device_eval_batch_size", "", kMemory},
    {"eval_batch_size", "", kMemory},
    {"gradient_accumulation_steps", "--accumulation_steps", ""},
    {"lr_scheduler_type", "--lr_scheduler", ""},
    {"warmup_ratio", "", "use --warmup_steps N; it is 2.5% of the steps where not given"},
    {"num_warmup_steps", "--warmup_steps", ""},
    {"max_grad_norm", "--grad_clip", ""},
    {"max_norm", "--grad_clip", ""},
    {"gradient_clipping", "--grad_clip", ""},
    {"adam_epsilon", "--adam_eps", ""},
    {"optim", "", "the optimizer is AdamW with fp32 state; leave it out"},
    {"optimizer", "", "the optimizer is AdamW with fp32 state; leave it out"},
    {"data_seed", "", "use --seed, which the order of the data follows, too"},
    {"random_seed", "--seed", ""},
    // the run
    {"output_dir", "--save_dir", ""},
    {"overwrite_output_dir", "--overwrite", ""},
    {"resume_from_checkpoint", "--resume", ""},
    {"save_strategy", "", kSave},
    {"save_safetensors", "", "weights are safetensors, always; leave it out"},
    {"run_name", "", "the run is called as its folder, --save_dir"},
    {"plot_loss", "", kLogged},
    {"logging_first_step", "", kLogged},
    {"ddp_timeout", "", kOneProcess},
    {"eval_strategy", "", kEval},
    {"evaluation_strategy", "", kEval},
    {"do_eval", "", kEval},
    {"do_train", "", "hone sft trains; leave it out"},
    {"stage", "", "the command says it: hone sft; leave it out"},
    {"logging_steps", "", kLogged},
    {"logging_strategy", "", kLogged},
    {"logging_dir", "--tensorboard_dir", ""},
    {"report_to", "", kNothingOut},
    {"wandb_project", "", kNothingOut},
    {"push_to_hub", "", kNothingOut},
    {"deepspeed", "", kOneProcess},
    {"fsdp", "", kOneProcess},
    {"num_processes", "", kOneProcess},
    {"nproc_per_node", "", kOneProcess},
    {"load_best_model_at_end", "--keep_best", ""},
    {"early_stopping_patience", "--early_stopping", ""},
    // answers
    {"num_return_sequences", "--num_samples", ""},
    {"max_tokens", "--max_new_tokens", ""},
    {"do_sample", "", kGenerate},
    {"num_beams", "", kGenerate},
    {"input_file", "--input", ""},
    {"output_file", "--output", ""},
    {"export_dir", "--output", ""},
});

}  // namespace

const ForeignFlag* find_foreign_flag(std::string_view name) {
  const auto it = std::find_if(kFlags.begin(), kFlags.end(),
                               [name](const ForeignFlag& f) { return f.name == name; });
  return it == kFlags.end() ? nullptr : &*it;
}

}  // namespace hone::app
