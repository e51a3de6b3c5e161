// The flags of hone show and hone tokenize.
#include "app/commands/commands.h"
#include "app/commands/show.h"
#include "app/commands/tokenize.h"
#include "app/model_flags.h"
#include "app/pretrained.h"
#include "app/terminal.h"
#include "app/version.h"
#include "core/error.h"

namespace hone::app {
namespace {

struct ShowFlags {
  ShowOptions o;
  std::string format = "auto", train_on = "assistant", color = "auto", append_eos = "true";
};

int run_show_flags(const ShowFlags& f) {
  check_pretrained(f.o.pretrained, "tokenizer.json");
  if (f.o.data.paths.empty()) user_error("flags", "no data was given; use --dataset FILE");
  ShowOptions options = f.o;
  options.data.format = data::parse_dataset_format(f.format);
  options.data.train_on = parse_train_on(f.train_on);
  if (options.data.format == data::DatasetFormat::kPairs ||
      options.data.format == data::DatasetFormat::kLabelled) {
    if (options.data.train_on == TrainOn::kAll)
      user_error("flags", "--train_on all has no meaning for {}, whose answers are compared",
                 f.format);
    options.data.train_on = TrainOn::kLast;
  }
  options.data.append_eos = f.append_eos == "true";
  options.data.warn = [](const std::string& line) { say("warning: " + line); };
  options.color = f.color == "always"  ? ShowOptions::Color::kAlways
                  : f.color == "never" ? ShowOptions::Color::kNever
                                       : ShowOptions::Color::kAuto;
  return run_show(options);
}

}  // namespace

void add_show(Cli& cli) {
  Command& c = cli.add("show", "a sample as training sees it: text, tokens, what is trained",
                       "Needs no weights in the model's folder.");
  const auto f = std::make_shared<ShowFlags>();
  data::DatasetOptions& d = f->o.data;
  c.group("Model and data");
  c.flag("-m,--pretrained,--pretrain", f->o.pretrained, "The model's folder", "DIR");
  c.flag("-d,--dataset", d.paths, "Data, as hone sft takes it", "FILE...");
  c.choice("--dataset_format", f->format,
           {"auto", "messages", "sharegpt", "alpaca", "prompt_completion", "qa", "text", "tokens",
            "pairs", "labelled"},
           "What a record is");
  c.flag("--dataset_info", d.dataset_info, "LLaMA-Factory's dataset_info.json", "FILE");
  add_text_flags(c, f->o.text);
  c.flag("--system_prompt", d.system_prompt, "Put before chats that have no system message");
  c.choice("--append_eos", f->append_eos, {"true", "false"},
           "The end-of-text token behind plain texts");
  c.choice("--train_on", f->train_on, {"assistant", "last", "all"}, "Tokens that are trained");
  c.flag("--max_length,--max_len", d.max_length,
         "Tokens of a sample, cut on the right; 0: not cut");
  c.flag("--add_generation_prompt", d.add_generation_prompt,
         "To chats that end with the user: the beginning of the answer");
  c.group("Output");
  c.flag("--num_samples", f->o.num_samples, "Samples shown; 0: all; -1: 3, or all with --json");
  c.flag("--json", f->o.json, "A line a sample: {\"text\", \"tokens\", \"trained\"}");
  c.choice("--color", f->color, {"auto", "always", "never"}, "Mark trained tokens by colour");
  c.group(kCommonGroup);
  c.config_files();
  c.run([f] { return run_show_flags(*f); });
}

void add_tokenize(Cli& cli) {
  Command& c = cli.add("tokenize", "texts to token ids and back",
                       "A JSON string a line in, a JSON list of ids a line out. Needs no weights.");
  const auto f = std::make_shared<TokenizeOptions>();
  c.group("Input and output");
  c.flag("-m,--pretrained,--pretrain", f->pretrained, "The model's folder", "DIR");
  c.flag("-i,--input", f->input, "JSON lines; -: stdin", "FILE");
  c.flag("--decode", f->decode, "The other way: lists of ids to strings");
  c.flag("--add_special_tokens", f->add_special_tokens,
         "With the tokens the tokenizer puts around a text");
  c.flag("--threads", f->threads, "Threads; 0: all cores");
  c.group(kCommonGroup);
  c.config_files();
  c.run([f] {
    check_pretrained(f->pretrained, "tokenizer.json");
    if (f->input.empty())
      user_error("flags", "no input was given; use --input FILE, or - for stdin");
    return run_tokenize(*f);
  });
}

}  // namespace hone::app
