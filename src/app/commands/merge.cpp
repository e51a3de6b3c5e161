// hone merge: an adapter added into the base model's weights.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "app/commands/commands.h"
#include "app/json_lines.h"
#include "app/logits.h"
#include "app/model_flags.h"
#include "app/model_folder.h"
#include "app/pretrained.h"
#include "app/prompts.h"
#include "app/terminal.h"
#include "app/units.h"
#include "app/version.h"
#include "core/error.h"
#include "core/rng.h"
#include "core/thread_pool.h"
#include "io/files.h"
#include "io/peft_targets.h"
#include "io/run_folder.h"
#include "io/weight_names.h"
#include "load/source.h"
#include "models/decoder.h"
#include "train/text_side.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

struct Flags {
  ModelFlags model;
  std::string output, output_dtype = "auto", prompts;
  int64_t max_new_tokens = 32;
  bool overwrite = false;
};

// Rows [first, first + n) of W + scale * B A, in double.
void merged_rows(const load::Source& w, const io::AdapterLayer& adapter, double scale,
                 int64_t first, int64_t n, std::vector<double>& out) {
  const int64_t in = adapter.in;
  std::vector<float> base(static_cast<size_t>(n * in));
  load::read_numbers(w, first * in, base);
  out.assign(base.begin(), base.end());
  for (int64_t row = 0; row < n; ++row) {
    double* to = out.data() + row * in;
    for (int64_t r = 0; r < adapter.rank; ++r) {
      const double b =
          scale *
          static_cast<double>(adapter.b[static_cast<size_t>((first + row) * adapter.rank + r)]);
      const float* a = adapter.a.data() + r * in;
      for (int64_t j = 0; j < in; ++j) to[j] += b * static_cast<double>(a[j]);
    }
  }
}

// What an adapter adds to one tensor.
struct Change {
  io::AdapterLayer layer;
  double scale = 1;
};

// Rows [first, first + out) of one expert's pair.
io::AdapterLayer expert_pair(const io::AdapterLayer& all, int64_t expert, int64_t first,
                             int64_t out) {
  io::AdapterLayer one{.module = all.module, .rank = all.rank, .in = all.in, .out = out};
  const auto cut = [](const std::vector<float>& from, int64_t begin, int64_t n) {
    return std::vector<float>(from.begin() + begin, from.begin() + begin + n);
  };
  one.a = cut(all.a, expert * all.rank * all.in, all.rank * all.in);
  one.b = cut(all.b, (expert * all.out + first) * all.rank, out * all.rank);
  return one;
}

// By the name of the tensor in the folder.
std::map<std::string, Change> changes(const models::ModelConfig& config,
                                      const io::Adapter& adapter) {
  ParamStore store;
  models::Decoder decoder(config, store, Format::f32);
  const io::AdapterRules rules(adapter.config);
  std::map<std::string, Change> all;
  for (const nn::Linear* l : decoder.linears()) {
    const auto layer = std::find_if(
        adapter.layers.begin(), adapter.layers.end(),
        [&](const io::AdapterLayer& candidate) { return candidate.module == l->path; });
    if (layer == adapter.layers.end()) continue;
    const double scale = rules.scale_of(l->path);
    if (l->experts.empty()) all[store.spec(l->params.weight).name] = {*layer, scale};
    int64_t first = 0;
    for (const std::vector<ParamId>& matrix : l->experts) {
      const int64_t out = store.spec(matrix.front()).shape[0];
      for (size_t e = 0; e < matrix.size(); ++e)
        all[store.spec(matrix[e]).name] = {expert_pair(*layer, static_cast<int64_t>(e), first, out),
                                           scale};
      first += out;
    }
  }
  return all;
}

void write_merged(const Flags& f, int threads) {
  models::ModelConfig config = models::load_model_config(f.model.pretrained);
  const io::CheckpointReader base = io::open_model_weights(f.model.pretrained, config, nullptr);
  const io::Adapter adapter = io::load_adapter(f.model.adapter);
  const auto dtype = parse_dtype("--output_dtype", f.output_dtype);
  std::vector<io::TensorDecl> tensors;
  for (const std::string& name : base.names()) {
    if (load::is_scale(base, name)) continue;
    const io::TensorEntry& t = base.at(name);
    io::FileType type = dtype && load::has_numbers(t.type) ? io::to_file_type(*dtype) : t.type;
    if (type == io::FileType::f8_e4m3) type = io::FileType::bf16;
    tensors.push_back({.name = name, .type = type, .shape = t.shape});
  }
  io::copy_model_files(f.model.pretrained, f.output);
  train::carry_text_side(f.model.adapter, f.output);
  io::ModelWriter writer(f.output, tensors);
  const std::map<std::string, Change> adapted = changes(config, adapter);
  ThreadPool pool(threads > 0 ? threads : available_threads());
  for (const io::TensorDecl& decl : tensors) {
    const io::TensorEntry& t = base.at(decl.name);
    const auto found = adapted.find(decl.name);
    const Change* change = found == adapted.end() ? nullptr : &found->second;
    if (change == nullptr && decl.type == t.type) {
      writer.write(decl.name, {t.data, t.bytes});
      continue;
    }
    const load::Source source = load::with_scales(base, t);
    const int64_t in = t.shape.empty() ? 1 : t.shape.back();
    const int64_t rows = in == 0 ? 0 : t.elements() / in;
    const int64_t each = std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(1, in));
    const int64_t group = each * pool.size();
    for (int64_t first = 0; first < rows; first += group) {
      std::vector<std::vector<std::byte>> pieces(static_cast<size_t>(pool.size()));
      pool.run(pool.size(), [&](int64_t task, int) {
        const int64_t from = first + task * each;
        const int64_t n = std::min(each, rows - from);
        if (n <= 0) return;
        std::vector<double> values;
        if (change != nullptr) {
          merged_rows(source, change->layer, change->scale, from, n, values);
        } else {
          std::vector<float> same(static_cast<size_t>(n * in));
          load::read_numbers(source, from * in, same);
          values.assign(same.begin(), same.end());
        }
        append_rounded(values, decl.type, pieces[static_cast<size_t>(task)]);
      });
      for (const auto& piece : pieces) writer.write(decl.name, piece);
    }
  }
  writer.finish();
  const fs::path config_file = fs::path(f.model.pretrained) / "config.json";
  std::string text = io::read_text_file(config_file, 16 << 20);
  if (dtype) text = config_with_dtype(text, config_file.string(), io::to_file_type(*dtype));
  if (config.quantization) text = config_unquantized(text, config_file.string());
  if (!config.tie_word_embeddings) text = config_untied(text, config_file.string());
  io::write_file_atomically(fs::path(f.output) / "config.json", text);
}

constexpr const char* kQuestions[] = {
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Tom has 5 apples and gets 7 more. How many apples does Tom have?",
    "Translate to German: Good morning, how are you?",
    "Explain in a few words why the sky is blue.",
    "def fibonacci(n):",
    "Once upon a time there was a little girl who",
    "List three prime numbers above ten.",
};
constexpr size_t kMaxPrompts = 32, kMaxPromptTokens = 128;

std::vector<rollout::Prompt> sample_prompts(const Flags& f, const models::ModelConfig& config) {
  std::vector<rollout::Prompt> prompts;
  const auto text = load_text(f.model.pretrained);
  const PromptReader reader(text.get(), config.vocab_size, "");
  const auto add = [&](std::vector<int32_t> tokens) {
    if (tokens.size() > kMaxPromptTokens) tokens.resize(kMaxPromptTokens);
    prompts.push_back({std::move(tokens), prompts.size()});
  };
  if (!f.prompts.empty()) {
    JsonLines lines(f.prompts);
    for (Json json; prompts.size() < kMaxPrompts && lines.next(json);)
      add(reader.read(json, lines.where()));
    if (prompts.empty()) user_error("input", "{} has no prompts", f.prompts);
    return prompts;
  }
  if (text) {
    try {
      for (const char* question : kQuestions) {
        if (text->chat_template) {
          add(reader.chat(Json{{{"role", "user"}, {"content", question}}}, "built-in prompt"));
        } else {
          add(reader.read(Json{{"prompt", question}}, "built-in prompt"));
        }
      }
      return prompts;
    } catch (const UserError&) {
      // A template that takes no such chat, or a tokenizer with ids that the model has not.
      prompts.clear();
    }
  }
  for (uint64_t i = 0; i < std::size(kQuestions); ++i) {  // any tokens
    std::vector<int32_t> tokens;
    for (uint64_t t = 0; t < 16; ++t)
      tokens.push_back(static_cast<int32_t>(random_words(1, Purpose::test, i, t)[0] %
                                            static_cast<uint64_t>(config.vocab_size)));
    add(std::move(tokens));
  }
  return prompts;
}

double log_sum_exp(std::span<const float> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const float v : x) sum += std::exp(static_cast<double>(v) - top);
  return top + std::log(sum);
}

struct Certificate {
  double largest_difference = 0, largest_logit = 0, kl_sum = 0, kl_max = 0;
  int64_t positions = 0, equal_answers = 0, equal_tokens = 0, answer_tokens = 0;
};

void compare_rows(std::span<const float> a, std::span<const float> b, Certificate& c) {
  const double lse_a = log_sum_exp(a), lse_b = log_sum_exp(b);
  double kl = 0;
  for (size_t j = 0; j < a.size(); ++j) {
    const double x = static_cast<double>(a[j]), y = static_cast<double>(b[j]);
    c.largest_difference = std::max(c.largest_difference, std::fabs(x - y));
    c.largest_logit = std::max(c.largest_logit, std::fabs(x));
    kl += std::exp(x - lse_a) * ((x - lse_a) - (y - lse_b));
  }
  c.kl_sum += kl;
  c.kl_max = std::max(c.kl_max, kl);
  ++c.positions;
}

std::vector<std::vector<int32_t>> greedy(load::Model& model,
                                         const std::vector<rollout::Prompt>& prompts,
                                         int64_t max_new_tokens) {
  rollout::SamplingOptions options;
  options.temperature = 0;
  options.max_new_tokens = max_new_tokens;
  options.stop_ids = model.config().eos_token_ids;
  std::vector<std::vector<int32_t>> answers;
  Context ctx = model.context();
  rollout::generate(ctx, model.decoder(), prompts, options,
                    [&](const rollout::Completion& c) { answers.push_back(c.tokens); });
  return answers;
}

Certificate certify(load::Model& before, load::Model& after,
                    const std::vector<rollout::Prompt>& prompts, int64_t max_new_tokens) {
  Certificate c;
  Context a = before.context(), b = after.context();
  const auto vocab = static_cast<size_t>(before.config().vocab_size);
  for (const rollout::Prompt& prompt : prompts) {
    std::vector<float> left;
    for_each_logits(a, before.decoder(), prompt.tokens, [&](int64_t, std::span<const float> rows) {
      left.insert(left.end(), rows.begin(), rows.end());
    });
    for_each_logits(
        b, after.decoder(), prompt.tokens, [&](int64_t first, std::span<const float> rows) {
          for (size_t i = 0; i < rows.size() / vocab; ++i)
            compare_rows(std::span(left).subspan((static_cast<size_t>(first) + i) * vocab, vocab),
                         rows.subspan(i * vocab, vocab), c);
        });
  }
  const auto x = greedy(before, prompts, max_new_tokens);
  const auto y = greedy(after, prompts, max_new_tokens);
  for (size_t i = 0; i < x.size(); ++i) {
    c.equal_answers += x[i] == y[i] ? 1 : 0;
    c.answer_tokens += static_cast<int64_t>(std::max(x[i].size(), y[i].size()));
    const auto end = std::mismatch(x[i].begin(), x[i].end(), y[i].begin(), y[i].end()).first;
    c.equal_tokens += end - x[i].begin();
  }
  return c;
}

int run(const Flags& f) {
  check_pretrained(f.model.pretrained);
  if (f.model.adapter.empty())
    user_error("flags", "no adapter was given; use --adapter DIR, a PEFT folder");
  check_output_folder(f.output, f.overwrite);
  std::error_code code;
  for (const std::string* from : {&f.model.pretrained, &f.model.adapter})
    if (fs::equivalent(*from, f.output, code))
      user_error("output", "--output {} is the folder that is read; give another one", f.output);
  if (f.max_new_tokens < 1)
    user_error("flags", "--max_new_tokens {}: use 1 or more", f.max_new_tokens);
  parse_dtype("--output_dtype", f.output_dtype);
  Machine machine(f.model.machine());
  const auto before = f.model.load(machine);
  const std::vector<rollout::Prompt> prompts = sample_prompts(f, before->config());
  write_merged(f, f.model.threads);
  say(fmt::format("wrote the merged model to {}", f.output));

  // The same arithmetic on both sides, so that only the merging differs.
  ModelFlags same = f.model;
  same.dtype = std::string(dtype_name(before->dtype()));
  const auto after = same.load(machine, f.output, "");
  const Certificate c = certify(*before, *after, prompts, f.max_new_tokens);
  Output out;
  out.write(fmt::format(
      "base + adapter against merged, in {}, {} prompts, {} positions:\n"
      "  largest logit difference  {:.3g} (largest logit {:.3g})\n"
      "  KL divergence             {:.3g} mean, {:.3g} largest\n"
      "  greedy answers            {} of {} equal, {} of {} tokens before the first difference\n",
      dtype_name(before->dtype()), prompts.size(), c.positions, c.largest_difference,
      c.largest_logit, c.kl_sum / static_cast<double>(std::max<int64_t>(1, c.positions)), c.kl_max,
      c.equal_answers, prompts.size(), c.equal_tokens, c.answer_tokens));
  out.finish();
  return 0;
}

}  // namespace

void add_merge(Cli& cli) {
  Command& c = cli.add("merge", "put an adapter into the model's weights",
                       "Every weight is computed in double precision and rounded once. Prints its "
                       "certificate: how far the\nmerged model is from base + adapter.");
  const auto f = std::make_shared<Flags>();
  f->model.add(c);
  c.group("Merging");
  c.flag("-o,--output", f->output, "The merged model's folder", "DIR");
  c.flag("--output_dtype", f->output_dtype, "Type of the weights; auto: as in the base's files",
         "auto|bf16|fp32");
  c.flag("--overwrite", f->overwrite, "Replace the model that is in --output");
  c.flag("--prompts", f->prompts,
         "Prompts for the certificate, as hone generate takes them; not given: eight questions",
         "FILE");
  c.flag("--max_new_tokens", f->max_new_tokens, "Length of the greedy answers compared");
  c.group(kCommonGroup);
  c.config_files();
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
