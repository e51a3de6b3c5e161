// hone logits: what the head says after every token.
#include "app/logits.h"
#include "app/commands/commands.h"
#include "app/json_lines.h"
#include "app/model_flags.h"
#include "app/pretrained.h"
#include "app/terminal.h"
#include "app/version.h"
#include "core/error.h"
#include "io/safetensors.h"

namespace hone::app {
namespace {

struct Flags {
  ModelFlags model;
  std::string input, output;
};

int run(const Flags& f) {
  check_pretrained(f.model.pretrained);
  if (f.output.empty() || f.output == "-")
    user_error("flags", "no output was given; use --output FILE.safetensors");
  const int64_t vocab = models::load_model_config(f.model.pretrained).vocab_size;
  JsonLines input(f.input);
  std::vector<std::vector<int32_t>> sequences;
  std::vector<io::TensorDecl> tensors;
  for (Json json; input.next(json);) {
    sequences.push_back(token_list(json, vocab, input.where()));
    tensors.push_back({.name = std::to_string(tensors.size()),
                       .type = io::FileType::f32,
                       .shape = {static_cast<int64_t>(sequences.back().size()), vocab}});
  }
  if (sequences.empty()) user_error("input", "{} has no token lists", f.input);
  Machine machine(f.model.machine());
  const auto model = f.model.load(machine);
  Context ctx = model->context();
  io::SafetensorsWriter writer(f.output, tensors);
  for (size_t i = 0; i < sequences.size(); ++i) {
    for_each_logits(ctx, model->decoder(), sequences[i], [&](int64_t, std::span<const float> rows) {
      writer.write(tensors[i].name, std::as_bytes(rows));
    });
  }
  writer.finish();
  say(fmt::format("wrote the logits of {} sequences to {}", sequences.size(), f.output));
  return 0;
}

}  // namespace

void add_logits(Cli& cli) {
  Command& c = cli.add("logits", "the model's logits after every token, as safetensors",
                       "A line of input is a JSON list of token ids. The file holds fp32 tensors "
                       "\"0\", \"1\", ... of\n[tokens, vocabulary].");
  const auto f = std::make_shared<Flags>();
  f->model.add(c);
  c.group("Input and output");
  c.flag("-i,--input", f->input, "JSON lines; -: stdin", "FILE");
  c.flag("-o,--output", f->output, "A safetensors file", "FILE");
  c.group(kCommonGroup);
  c.config_files();
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
