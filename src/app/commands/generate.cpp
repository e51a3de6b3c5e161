// hone generate: completions of prompts.
#include <unistd.h>

#include <chrono>
#include <deque>
#include <optional>

#include "app/answer_file.h"
#include "app/commands/commands.h"
#include "app/json_lines.h"
#include "app/model_flags.h"
#include "app/pretrained.h"
#include "app/prompts.h"
#include "app/terminal.h"
#include "app/version.h"
#include "core/error.h"

namespace hone::app {
namespace {

using Clock = std::chrono::steady_clock;

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  data::TextModelOptions text;
  std::string input, output = "-", system_prompt;
  bool resume = false;
};

// Prompts taken in at a time: enough to keep every lane busy, few enough to hold.
constexpr size_t kPromptsAtOnce = 4096;

// The input's fields, then the completion's.
std::string answer_line(Json fields, const std::vector<int32_t>& prompt,
                        const rollout::Completion& done, const std::string& text) {
  for (const char* own :
       {"prompt_tokens", "tokens", "logprobs", "completion", "finish_reason", "sample"})
    fields.erase(own);
  std::string line = fields.dump(-1, ' ', false, Json::error_handler_t::replace);
  line.pop_back();
  if (line.size() > 1) line += ',';
  line += fmt::format(
      "\"prompt_tokens\":{},\"tokens\":{},\"logprobs\":{},\"completion\":{},"
      "\"finish_reason\":\"{}\",\"sample\":{}}}\n",
      int_list<int32_t>(prompt), int_list<int32_t>(done.tokens), float_list(done.logprobs),
      Json(text).dump(), done.finish_reason, done.sample);
  return line;
}

// Without special tokens, and without ids of embeddings that no token stands for.
std::string completion_text(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  std::vector<int32_t> known;
  for (const int32_t id : tokens)
    if (tokenizer.token_of(id)) known.push_back(id);
  return tokenizer.decode(known, /*skip_special_tokens=*/true);
}

int run(const Flags& f) {
  check_pretrained(f.model.pretrained);
  rollout::SamplingOptions options = f.sampling.o;
  rollout::check_sampling(options);
  JsonLines input(f.input);
  AnswerFile output(f.output, f.resume);
  // The prompt of the last answer that is kept is answered again, to see that it is the same.
  const auto samples = static_cast<uint64_t>(options.num_samples);
  const auto kept = static_cast<uint64_t>(output.kept());
  const uint64_t skipped = kept == 0 ? 0 : (kept - 1) / samples;  // prompts
  output.begin_at(static_cast<int64_t>(skipped * samples));
  data::TextModelOptions text_options = f.text;
  text_options.adapter = f.model.adapter;
  const auto text = load_text(f.model.pretrained, text_options);
  Machine machine(f.model.machine());
  const auto model = f.model.load_to_generate(machine);
  options.stop_ids = stop_ids(model->config(), f.model.adapter, text.get());
  const PromptReader reader(text.get(), model->config().vocab_size, f.system_prompt);
  Context ctx = model->context();

  // Not where it would mix with the answers, and only of what takes longer.
  std::optional<ProgressLine> progress;
  if (f.output != "-" || ::isatty(STDOUT_FILENO) == 0) progress.emplace("answer");
  constexpr double kSecondsBefore = 3;
  int64_t drawn = 0, read = 0, answers = 0;
  uint64_t key = 0;
  double seconds = 0;
  for (bool more = true; more;) {
    std::vector<rollout::Prompt> prompts;
    std::vector<Json> fields;
    while (prompts.size() < kPromptsAtOnce) {
      Json json;
      more = input.next(json);
      if (!more) break;
      if (key < skipped) {
        ++key;
        continue;
      }
      prompts.push_back({reader.read(json, input.where()), key++});
      if (json.is_array()) json = Json{{"messages", std::move(json)}};
      fields.push_back(std::move(json));
      read += static_cast<int64_t>(prompts.back().tokens.size());
    }
    const auto begin = Clock::now();
    const auto elapsed = [&] {
      return seconds + std::chrono::duration<double>(Clock::now() - begin).count();
    };
    const int64_t total =
        answers + static_cast<int64_t>(prompts.size()) * options.num_samples;  // known so far
    rollout::generate(ctx, model->decoder(), prompts, options, [&](const rollout::Completion& c) {
      drawn += static_cast<int64_t>(c.tokens.size());
      output.write(answer_line(fields[c.prompt], prompts[c.prompt].tokens, c,
                               text ? completion_text(text->tokenizer, c.tokens) : ""));
      if (++answers < total && progress && elapsed() > kSecondsBefore)
        progress->update(answers, total,
                         fmt::format("{:.0f} tok/s", static_cast<double>(drawn) / elapsed()));
    });
    seconds = elapsed();
    output.flush();
  }
  if (key == 0) user_error("input", "{} has no prompts", f.input);
  output.finish();
  progress.reset();
  if (skipped > 0) say(fmt::format("answers of {} prompts were there already", skipped));
  say(fmt::format("generated {} tokens in {:.2f} s ({:.1f} tokens/s) from {} prompts of {} tokens",
                  drawn, seconds, seconds > 0 ? static_cast<double>(drawn) / seconds : 0.0,
                  key - skipped, read));
  return 0;
}

}  // namespace

void add_generate(Cli& cli) {
  Command& c = cli.add(
      "generate", "answer prompts, a JSON line each",
      "A line of input is {\"prompt\": \"text\"}, a list of messages, {\"messages\": [...]} or "
      "{\"tokens\": [...]}. A line of output has its fields and \"prompt_tokens\", \"tokens\", "
      "\"logprobs\", \"completion\", \"finish_reason\", \"sample\". Samples don't depend on "
      "--batch_size. Answers are in FILE.partial until the last one is there.");
  const auto f = std::make_shared<Flags>();
  f->model.add(c);
  c.group("Input and output");
  c.flag("-i,--input", f->input, "JSON lines; -: stdin", "FILE");
  c.flag("-o,--output", f->output, "-: stdout", "FILE");
  c.flag("--resume", f->resume, "Go on where a run of the same flags was ended");
  add_text_flags(c, f->text);
  c.flag("--system_prompt", f->system_prompt, "Put before chats that have no system message");
  f->sampling.add(c);
  c.flag("--num_samples", f->sampling.o.num_samples, "Completions of each prompt");
  c.flag("--batch_size", f->sampling.o.batch_size, "Sequences decoded together");
  c.group(kCommonGroup);
  c.config_files();
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
