#include "app/model_flags.h"

#include <filesystem>

#include "app/terminal.h"
#include "app/units.h"
#include "core/error.h"
#include "core/process.h"
#include "train/text_side.h"

namespace hone::app {

void ModelFlags::add(Command& c) {
  c.group("Model");
  c.flag("-m,--pretrained,--pretrain", pretrained,
         "The model: a Hugging Face folder (config.json, safetensors, tokenizer.json)", "DIR");
  c.flag("--adapter", adapter, "A PEFT adapter of it", "DIR");
  c.flag("--dtype", dtype, "What to compute in; auto: the model's type, bf16 for fp16 models",
         "auto|bf16|fp32");
  c.flag("--memory", memory, "An error instead of more memory than this for activations", "6GiB");
  c.flag("--weights_memory", weights_memory,
         "Read the weights from disk as they are needed, into this much memory", "4GiB");
  c.flag("--threads", threads, "Threads; 0: all cores");
}

MachineOptions ModelFlags::machine() const {
  if (threads < 0) user_error("flags", "--threads {}: use 0 for all cores, or more", threads);
  return {.threads = threads,
          .memory_limit = memory.empty() ? 0 : parse_memory("--memory", memory)};
}

std::unique_ptr<load::Model> ModelFlags::load(Machine& machine, const std::string& folder,
                                              const std::string& with_adapter,
                                              bool copy_weights) const {
  auto model = std::make_unique<load::Model>(
      machine,
      load::ModelOptions{.folder = folder,
                         .dtype = parse_dtype("--dtype", dtype),
                         .weights_memory = weights_memory.empty()
                                               ? 0
                                               : parse_memory("--weights_memory", weights_memory),
                         .warn = [](const std::string& line) { say("warning: " + line); }});
  if (!with_adapter.empty()) model->load_adapter(with_adapter, /*trainable=*/false);
  const bool room = memory.empty() && available_memory() / 5 * 4 > model->file_bytes();
  model->load(0, copy_weights && room);
  return model;
}

std::unique_ptr<load::Model> ModelFlags::load(Machine& machine) const {
  return load(machine, pretrained, adapter);
}

std::unique_ptr<load::Model> ModelFlags::load_to_generate(Machine& machine) const {
  return load(machine, pretrained, adapter, /*copy_weights=*/true);
}

void SamplingFlags::add(Command& c) {
  c.group("Sampling");
  c.flag("--temperature", o.temperature, "0: the likeliest token, the lowest id of equals");
  c.flag("--top_k", o.top_k, "Draw from the k likeliest tokens; 0: all");
  c.flag("--top_p", o.top_p, "Draw from the likeliest that together have this probability");
  c.flag("--max_new_tokens", o.max_new_tokens, "Longest completion, in tokens");
  c.flag("--seed", o.seed, "Of the draws");
  c.flag("--ignore_eos", o.ignore_eos, "Go on to --max_new_tokens whatever is drawn");
}

void add_text_flags(Command& c, data::TextModelOptions& o) {
  c.flag("--conversation_template,--chat_template", o.conversation_template,
         "Chat template instead of the model's: a Jinja file (.jinja), the original's JSON form, a "
         "folder with one, or the name of another one of the model's",
         "FILE");
  c.flag("--template_kwargs,--chat_template_kwargs", o.template_kwargs,
         "Variables for the chat template, such as enable_thinking=false or a JSON object", "JSON");
  c.flag("--eos_token", o.eos_token,
         "What ends an answer or a text, instead of what the model and its template say",
         "TOKEN|ID...");
}

std::vector<int32_t> stop_ids(const models::ModelConfig& config, const std::string& adapter,
                              const data::TextModel* text) {
  if (text == nullptr) return config.eos_token_ids;
  std::vector<int32_t> turn_ends;
  if (text->chat_template) {
    ConversationEncoder::Options options;
    options.render.variables = text->variables;
    turn_ends = ConversationEncoder(text->tokenizer, *text->chat_template, options).turn_ends();
  }
  return train::end_ids(config, adapter, *text, turn_ends);
}

std::unique_ptr<data::TextModel> load_text(const std::string& pretrained,
                                           const data::TextModelOptions& options) {
  namespace fs = std::filesystem;
  if (fs::is_directory(pretrained) && !fs::exists(fs::path(pretrained) / "tokenizer.json") &&
      options.conversation_template.empty())
    return nullptr;
  return std::make_unique<data::TextModel>(data::TextModel::load(pretrained, options));
}

}  // namespace hone::app
