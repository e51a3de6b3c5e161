// hone tokenizer: a byte-level BPE tokenizer from texts.
#include <algorithm>
#include <filesystem>

#include "app/commands/commands.h"
#include "app/json_lines.h"
#include "app/terminal.h"
#include "core/error.h"
#include "data/source.h"
#include "io/files.h"
#include "text/tokenizer.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::vector<std::string> input, special;
  std::string output, chat_template, bos, eos, pad;
  int64_t vocab_size = 4096, min_frequency = 2, model_max_length = 0;
  bool overwrite = false;
};

constexpr uint64_t kMaxFileBytes = uint64_t{4} << 30;

// All texts inside a record, but for who speaks.
void collect(const Json& json, std::vector<std::string>& texts) {
  if (json.is_string()) {
    texts.push_back(json.get<std::string>());
  } else if (json.is_array()) {
    for (const Json& v : json) collect(v, texts);
  } else if (json.is_object()) {
    for (const auto& [key, v] : json.items())
      if (key != "role" && key != "from") collect(v, texts);
  }
}

std::vector<std::string> read_texts(const std::string& path) {
  std::vector<std::string> texts;
  if (path.ends_with(".jsonl")) {
    JsonLines lines(path);
    for (Json json; lines.next(json);) collect(json, texts);
    return texts;
  }
  const std::string all = io::read_text_file(path, kMaxFileBytes);
  if (const size_t at = data::find_invalid_utf8(all); at != std::string::npos)
    user_error("input", "{}: byte {} is no part of valid UTF-8; give text in UTF-8", path, at);
  for (size_t i = 0; i < all.size();) {
    const size_t end = std::min(all.find('\n', i), all.size() - 1);
    texts.push_back(all.substr(i, end + 1 - i));
    i = end + 1;
  }
  return texts;
}

int run(const Flags& f) {
  if (f.input.empty()) user_error("flags", "no text was given; use --input FILE");
  if (f.output.empty()) user_error("flags", "no output was given; use --output DIR");
  const auto specials = static_cast<int64_t>(f.special.size());
  if (f.vocab_size < 256 + specials || f.vocab_size > 10'000'000)
    user_error("flags", "--vocab_size {}: use at least {}, for 256 bytes and {} special tokens",
               f.vocab_size, 256 + specials, specials);
  if (f.min_frequency < 1)
    user_error("flags", "--min_frequency {}: use 1 or more", f.min_frequency);
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false}};
  for (const auto& [flag, role, token] : {std::tuple{"--bos_token", "bos_token", &f.bos},
                                          std::tuple{"--eos_token", "eos_token", &f.eos},
                                          std::tuple{"--pad_token", "pad_token", &f.pad}}) {
    if (token->empty()) continue;
    if (std::find(f.special.begin(), f.special.end(), *token) == f.special.end())
      user_error("flags", "{} {} is none of the --special tokens; name it there too", flag, *token);
    config[role] = *token;
  }
  if (f.model_max_length > 0) config["model_max_length"] = f.model_max_length;
  const fs::path folder = f.output;
  std::error_code code;
  if (fs::exists(folder / "tokenizer.json", code) && !f.overwrite)
    user_error("output", "{} holds a tokenizer already; give another folder, or --overwrite",
               f.output);
  const std::string chat_template =
      f.chat_template.empty() ? "" : io::read_text_file(f.chat_template, 16 << 20);
  std::vector<std::string> texts;
  for (const std::string& path : f.input)
    for (std::string& text : read_texts(path)) texts.push_back(std::move(text));
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::string json = train_bpe(
      views,
      {.vocab_size = f.vocab_size, .min_frequency = f.min_frequency, .special_tokens = f.special});
  const std::string config_text = config.dump(2) + "\n";
  const Tokenizer tokenizer = Tokenizer::from_json(json, config_text);
  fs::create_directories(folder, code);
  if (code) runtime_error("output", "cannot create {}: {}", f.output, code.message());
  io::write_file_atomically(folder / "tokenizer.json", json);
  io::write_file_atomically(folder / "tokenizer_config.json", config_text);
  if (!chat_template.empty())
    io::write_file_atomically(folder / "chat_template.jinja", chat_template);
  say(fmt::format("wrote a tokenizer of {} tokens to {}", tokenizer.vocab_size(), f.output));
  return 0;
}

}  // namespace

void add_tokenizer(Cli& cli) {
  Command& c = cli.add("tokenizer", "train a byte-level BPE tokenizer",
                       "The same texts give the same tokenizer. Text files are read by lines; of "
                       ".jsonl files all texts\ncount.");
  const auto f = std::make_shared<Flags>();
  c.group("Texts");
  c.flag("-i,--input", f->input, "Text or .jsonl files", "FILE...");
  c.group("Tokenizer");
  c.flag("--vocab_size", f->vocab_size, "Tokens, the 256 bytes and special ones included");
  c.flag("--min_frequency", f->min_frequency, "Pairs seen less often are not joined");
  c.flag("--special", f->special, "Special tokens: get the ids 0, 1, ...", "TOKEN...");
  c.flag("--bos_token", f->bos, "Which of them begins a text", "TOKEN");
  c.flag("--eos_token", f->eos, "Which of them ends a text or a turn", "TOKEN");
  c.flag("--pad_token", f->pad, "Which of them fills up", "TOKEN");
  c.flag("--chat_template", f->chat_template, "A Jinja file to put beside it", "FILE");
  c.flag("--model_max_length", f->model_max_length, "Said in tokenizer_config.json; 0: not");
  c.group("Output");
  c.flag("-o,--output", f->output, "Folder for tokenizer.json and tokenizer_config.json", "DIR");
  c.flag("--overwrite", f->overwrite, "Replace the tokenizer that is in --output");
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
