// hone score: the log-prob of every token of a data set.
#include <chrono>
#include <limits>

#include "app/commands/commands.h"
#include "app/json_lines.h"
#include "app/model_flags.h"
#include "app/pretrained.h"
#include "app/terminal.h"
#include "app/version.h"
#include "core/error.h"
#include "data/packing.h"
#include "train/pass.h"

namespace hone::app {
namespace {

struct Flags {
  ModelFlags model;
  data::DatasetOptions data;
  data::TextModelOptions text;
  std::string output = "-", format = "auto", train_on = "assistant", append_eos = "true";
  int64_t micro_batch_tokens = 2048;
};

class Scorer {
 public:
  Scorer(Context& ctx, load::Model& model, int64_t budget, Output& out)
      : ctx_(ctx), model_(model), budget_(budget), out_(out) {}

  void add(data::Sample sample) {
    if (tokens_ + sample.size() > budget_ && !pending_.empty()) flush();
    tokens_ += sample.size();
    pending_.push_back(std::move(sample));
  }

  void flush() {
    std::vector<std::vector<float>> logprobs(pending_.size());
    for (size_t i = 0; i < pending_.size(); ++i)
      logprobs[i].resize(static_cast<size_t>(pending_[i].size()));
    const auto batches =
        data::pack(pending_, {.token_budget = budget_, .targets = data::Targets::kAll});
    for (const data::MicroBatch& mb : batches) {
      const std::vector<double> values = train::score(ctx_, model_.decoder(), mb);
      for (size_t row = 0; row < values.size(); ++row) {
        const int64_t sample = mb.samples[static_cast<size_t>(mb.row_segments[row])];
        logprobs[static_cast<size_t>(sample)][static_cast<size_t>(mb.row_positions[row])] =
            static_cast<float>(values[row]);
      }
    }
    for (size_t i = 0; i < pending_.size(); ++i) {
      const data::Sample& s = pending_[i];
      // The first token of a sequence has none, which is written as what isn't finite is.
      size_t first = 0;
      for (int64_t k = 0; k < s.sequences(); ++k) {
        logprobs[i][first] = std::numeric_limits<float>::quiet_NaN();
        if (!s.lengths.empty()) first += static_cast<size_t>(s.lengths[static_cast<size_t>(k)]);
      }
      const std::string lengths =
          s.lengths.empty() ? "" : fmt::format(",\"sequences\":{}", int_list<int32_t>(s.lengths));
      out_.write(fmt::format("{{\"tokens\":{},\"logprobs\":{},\"trained\":{}{}}}\n",
                             int_list<int32_t>(s.tokens), float_list(logprobs[i]),
                             int_list<uint8_t>(s.trained), lengths));
    }
    out_.flush();
    pending_.clear();
    tokens_ = 0;
  }

 private:
  Context& ctx_;
  load::Model& model_;
  int64_t budget_;
  Output& out_;
  std::vector<data::Sample> pending_;
  int64_t tokens_ = 0;
};

int run(const Flags& f) {
  check_pretrained(f.model.pretrained);
  if (f.data.paths.empty()) user_error("flags", "no data was given; use --dataset FILE");
  if (f.micro_batch_tokens < 1)
    user_error("flags", "--micro_batch_tokens {}: use 1 or more", f.micro_batch_tokens);
  data::DatasetOptions options = f.data;
  options.format = data::parse_dataset_format(f.format);
  options.train_on = parse_train_on(f.train_on);
  options.append_eos = f.append_eos == "true";
  options.threads = f.model.threads;
  options.vocab_limit = models::load_model_config(f.model.pretrained).vocab_size;
  options.warn = [](const std::string& line) { say("warning: " + line); };
  data::TextModelOptions text = f.text;
  text.adapter = f.model.adapter;
  const auto dataset =
      data::Dataset::open(data::TextModel::load(f.model.pretrained, text), options);
  Output output(f.output);
  Machine machine(f.model.machine());
  const auto model = f.model.load(machine);
  Context ctx = model->context();
  Scorer scorer(ctx, *model, f.micro_batch_tokens, output);
  const auto begin = std::chrono::steady_clock::now();
  int64_t tokens = 0;
  for (int64_t i = 0; i < dataset->size(); ++i) {
    data::Sample sample = dataset->get(i);
    if (sample.tokens.empty())
      user_error("dataset", "{}: the sample has no tokens", dataset->location(i));
    dataset->note(sample);
    tokens += sample.size();
    scorer.add(std::move(sample));
  }
  scorer.flush();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  dataset->warn_noted();
  say(fmt::format("scored {} tokens of {} samples in {:.2f} s", tokens, dataset->size(), seconds));
  output.finish();
  return 0;
}

}  // namespace

void add_score(Cli& cli) {
  Command& c = cli.add("score", "the log-probability of every token of a data set",
                       "Writes a line a sample: \"tokens\", \"logprobs\" (of each token given "
                       "those before it; null\n"
                       "for the first) and \"trained\" (0 or 1: whether hone sft would train it).\n"
                       "A conversation that is trained answer by answer is several sequences, one "
                       "behind the\nother; \"sequences\" has their lengths.");
  const auto f = std::make_shared<Flags>();
  f->data.max_length = 0;
  f->model.add(c);
  c.group("Data");
  c.flag("-d,--dataset", f->data.paths, "Data of any form that hone sft takes, token lists too",
         "FILE...");
  c.flag("-o,--output", f->output, "-: stdout", "FILE");
  c.choice("--dataset_format", f->format,
           {"auto", "messages", "sharegpt", "alpaca", "prompt_completion", "qa", "text", "tokens"},
           "What a record is");
  c.flag("--dataset_info", f->data.dataset_info, "LLaMA-Factory's dataset_info.json", "FILE");
  add_text_flags(c, f->text);
  c.flag("--system_prompt", f->data.system_prompt, "Put before chats that have no system message");
  c.choice("--append_eos", f->append_eos, {"true", "false"},
           "The end-of-text token behind plain texts");
  c.choice("--train_on", f->train_on, {"assistant", "last", "all"}, "What \"trained\" means");
  c.flag("--max_length,--max_len", f->data.max_length,
         "Tokens of a sample, cut on the right; 0: not cut");
  c.flag("--micro_batch_tokens", f->micro_batch_tokens, "Tokens computed at once");
  c.group(kCommonGroup);
  c.config_files();
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
