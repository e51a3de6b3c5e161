// hone chat: a conversation at the terminal.
#include <unistd.h>

#include <chrono>
#include <iostream>

#include "app/commands/commands.h"
#include "app/json_lines.h"
#include "app/model_flags.h"
#include "app/pretrained.h"
#include "app/prompts.h"
#include "app/terminal.h"
#include "app/version.h"
#include "core/error.h"
#include "data/source.h"

namespace hone::app {
namespace {

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  data::TextModelOptions text;
  std::string prompt, system_prompt;
};

// Text of tokens as they come: what could still change with the next token is held back.
class Stream {
 public:
  Stream(const Tokenizer& tokenizer, Output& out) : tokenizer_(tokenizer), out_(out) {}

  void add(int32_t token) {
    if (!tokenizer_.token_of(token)) return;
    tokens_.push_back(token);
    std::string text = tokenizer_.decode(tokens_, /*skip_special_tokens=*/true);
    if (text.ends_with("\xEF\xBF\xBD")) return;  // part of a character
    show(text);
  }
  std::string finish() {
    std::string text = tokenizer_.decode(tokens_, /*skip_special_tokens=*/true);
    show(text);
    out_.write("\n");
    out_.flush();
    return text;
  }

 private:
  void show(const std::string& text) {
    if (text.size() <= shown_) return;
    out_.write(std::string_view(text).substr(shown_));
    out_.flush();
    shown_ = text.size();
  }
  const Tokenizer& tokenizer_;
  Output& out_;
  std::vector<int32_t> tokens_;
  size_t shown_ = 0;
};

data::TextModel load_model_text(const Flags& f) {
  check_pretrained(f.model.pretrained);
  data::TextModelOptions options = f.text;
  options.adapter = f.model.adapter;
  return data::TextModel::load(f.model.pretrained, options);
}

class Conversation {
 public:
  Conversation(const Flags& f)
      : text_(load_model_text(f)), options_(f.sampling.o), machine_(f.model.machine()) {
    rollout::check_sampling(options_);
    if (!text_.chat_template)
      user_error("chat", "{}, or use hone generate with {{\"prompt\": ...}}", text_.no_template());
    model_ = f.model.load_to_generate(machine_);
    generator_.emplace(model_->context(), model_->decoder());
    options_.stop_ids = stop_ids(model_->config(), f.model.adapter, &text_);
    options_.num_samples = 1;
    reader_.emplace(&text_, model_->config().vocab_size, f.system_prompt);
  }

  void ask(const std::string& question) {
    messages_.push_back({{"role", "user"}, {"content", question}});
    std::vector<rollout::Prompt> prompt(1);
    prompt[0].tokens = reader_->read(messages_, "prompt");
    prompt[0].key = static_cast<uint64_t>(messages_.size());
    Stream stream(text_.tokenizer, out_);
    generator_->run(
        prompt, options_, [](const rollout::Completion&) {},
        [&](int32_t token) { stream.add(token); });
    messages_.push_back({{"role", "assistant"}, {"content", stream.finish()}});
  }
  void forget() { messages_ = Json::array(); }

 private:
  data::TextModel text_;
  rollout::SamplingOptions options_;
  Machine machine_;
  std::unique_ptr<load::Model> model_;
  std::optional<rollout::Generator> generator_;
  std::optional<PromptReader> reader_;
  Json messages_ = Json::array();
  Output out_;
};

std::string valid_text(const std::string& text) {
  if (data::find_invalid_utf8(text) != std::string_view::npos)
    user_error("chat", "the question is not valid UTF-8");
  return text;
}

int run(const Flags& f) {
  Conversation chat(f);
  if (!f.prompt.empty()) {
    chat.ask(valid_text(f.prompt));
    return 0;
  }
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  if (terminal) say("Ask something. /new forgets what was said, /exit or Ctrl-D ends.");
  std::string line;
  while (true) {
    if (terminal) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    if (line == "/exit" || line == "/quit") break;
    if (line == "/new" || line == "/reset") {
      chat.forget();
      continue;
    }
    chat.ask(valid_text(line));
  }
  return 0;
}

}  // namespace

void add_chat(Cli& cli) {
  Command& c = cli.add("chat", "talk to a model",
                       "A question a line; the model sees the whole conversation. Answers go to "
                       "stdout.");
  const auto f = std::make_shared<Flags>();
  f->sampling.o.temperature = 0.7;
  f->sampling.o.max_new_tokens = 512;
  f->model.add(c);
  c.group("Conversation");
  c.flag("--prompt", f->prompt, "One question, one answer, and the end");
  c.flag("--system_prompt", f->system_prompt, "Put before the conversation");
  add_text_flags(c, f->text);
  f->sampling.add(c);
  c.group(kCommonGroup);
  c.config_files();
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
