#include "plan/plan.h"

#include <algorithm>

#include "load/model.h"
#include "loss/objective.h"
#include "rollout/generate.h"
#include "train/pass.h"
#include "train/sft_options.h"

namespace hone::plan {
namespace {

// Parts of the process outside of the arena, as VmHWM and RssAnon + RssFile showed them on Debian
// 12 (x86-64, 2 threads, 2026-11-23):
// the program, its libraries, stacks and heap: 12 MB of file pages and 5 MB of its own.
constexpr size_t kProgramBytes = size_t{17} << 20;
// What a tokenizer keeps, per byte of tokenizer.json: 42 MiB for Qwen2.5's 6.7 MiB.
constexpr double kTokenizerFactor = 6.2;
// The same while it is being read: 172 MiB.
constexpr double kTokenizerLoadFactor = 25.6;
// The loader's look-ahead: its budget, or the prepared samples of a smaller data set (5 bytes a
// token; text has about four bytes a token).
constexpr size_t kPipelineBytes = size_t{16} << 20;
constexpr double kPreparedFactor = 1.25;
// A promise leaves this part of the arena free: other lengths of samples fragment it differently.
constexpr size_t kSlackDivisor = 32;

// Sums costs by class.
class CostObserver final : public Observer {
 public:
  void before(KernelId id, const char*, const Cost& cost) override {
    const bool gemm = id == KernelId::gemm || id == KernelId::gemm_dw || id == KernelId::head ||
                      id == KernelId::head_backward;
    (gemm ? gemm_flops : other_flops) += cost.flops;
    bytes += cost.bytes;
    if (gemm) {
      gemm_bytes += cost.bytes;
    } else {
      other_bytes += cost.bytes;
    }
  }
  void after() override {}
  double gemm_flops = 0, other_flops = 0, bytes = 0, gemm_bytes = 0, other_bytes = 0;
};

// A micro-batch of `tokens` computed tokens in sequences of at most `length`, every one of them
// labelled.
data::MicroBatch full_micro_batch(int64_t tokens, int64_t length) {
  data::MicroBatch mb;
  int64_t left = tokens;
  while (left > 0) {
    const int64_t n = std::min(left, length);
    const auto segment = static_cast<int32_t>(mb.stream.segments.size());
    const int32_t begin = static_cast<int32_t>(mb.stream.size());
    mb.stream.append(std::vector<int32_t>(static_cast<size_t>(n), 0),
                     static_cast<uint64_t>(segment));
    mb.samples.push_back(segment);
    for (int64_t i = 0; i < n; ++i) {
      mb.rows.push_back(begin + static_cast<int32_t>(i));
      mb.targets.push_back(0);
      mb.row_segments.push_back(segment);
      mb.row_positions.push_back(i + 1);
    }
    left -= n;
  }
  mb.tokens = tokens;
  return mb;
}

size_t tokenizer_bytes(const std::filesystem::path& folder, double factor) {
  std::error_code error;
  const auto n = std::filesystem::file_size(folder / "tokenizer.json", error);
  return error ? 0 : static_cast<size_t>(static_cast<double>(n) * factor);
}

size_t pipeline_bytes(const train::SftOptions& o) {
  double bytes = 0;
  for (const std::string& path : o.dataset) {
    std::error_code error;
    const auto n = std::filesystem::file_size(path, error);
    if (error) return kPipelineBytes;
    bytes += static_cast<double>(n);
  }
  return o.dataset.empty() ? kPipelineBytes
                           : std::min(kPipelineBytes, static_cast<size_t>(bytes * kPreparedFactor));
}

size_t state_bytes(load::Model& model) {
  size_t n = 0;
  for (const ParamId id : model.params().trainable())
    n += static_cast<size_t>(model.params().spec(id).numel()) * 12;
  return n;
}

size_t result_bytes(load::Model& model) {
  size_t n = 0;
  const bool adapter = model.adapter_config().has_value();
  for (ParamId id = 0; id < model.params().count(); ++id) {
    if (model.params().spec(id).adapter == adapter)
      n += static_cast<size_t>(model.params().bytes(id));
  }
  return n;
}

Plan run_plan(const train::SftOptions& o, int64_t tokens, bool recompute) {
  Plan p;
  p.micro_batch_tokens = tokens;
  p.recompute = recompute;
  Machine machine({.threads = o.threads, .meta = true});
  load::Model model(machine, {.folder = o.pretrained, .dtype = o.dtype});
  train::set_up_tuning(model, o);
  model.load();
  Context ctx = model.context();
  ctx.policy = recompute ? BlockPolicy::recompute : BlockPolicy::keep;
  ctx.seed = o.seed;
  for (ParamId id = 0; id < model.params().count(); ++id) {
    p.parameters += model.params().spec(id).numel();
    if (model.params().spec(id).trainable) p.trainable += model.params().spec(id).numel();
  }
  Arena& arena = machine.arena();
  p.phases.push_back({"load", arena.stats().peak_in_use});
  model.params().allocate_gradients(arena);
  optim::AdamW adamw(ctx, {});
  p.phases.push_back({"optimizer state", arena.stats().in_use});

  size_t highest = 0;
  const auto measure = [&](const char* name, auto&& work) {
    arena.reset_peak();
    CostObserver costs;
    ctx.observer = &costs;
    work();
    ctx.observer = nullptr;
    p.phases.push_back({name, arena.stats().peak_in_use});
    if (arena.stats().peak_in_use > highest) {
      highest = arena.stats().peak_in_use;
      p.arena = arena.stats().by_kind_at_peak;
    }
    return costs;
  };
  const int64_t length =
      std::max<int64_t>(1, std::min(tokens, train::effective_max_length(o, model.config()) - 1));
  const data::MicroBatch mb = full_micro_batch(tokens, length);
  const CostObserver pass = measure("forward and backward", [&] {
    train::zero_gradients(ctx);
    train::forward_backward(ctx, model.decoder(), loss::SftObjective(),
                            {.micro_batches = {&mb, 1}, .step_tokens = tokens});
  });
  const CostObserver update = measure("update", [&] {
    optim::gradient_norm(ctx);
    adamw.step(ctx, 1e-4, 1.0, 1);
  });
  if (!o.eval_dataset.empty()) {
    measure("evaluation", [&] { train::score(ctx, model.decoder(), mb); });
    if (o.eval_samples > 0) {
      // Answers to the longest prompts: the cache has room for all of each from the start.
      rollout::SamplingOptions sampling;
      sampling.max_new_tokens = 1;
      const int64_t longest = train::effective_max_length(o, model.config()) - 1;
      const rollout::Prompt prompt{
          .tokens = std::vector<int32_t>(static_cast<size_t>(longest + o.eval_max_new_tokens - 1))};
      std::vector<rollout::Prompt> prompts(static_cast<size_t>(o.eval_samples), prompt);
      // nothing in common
      for (size_t i = 0; i < prompts.size(); ++i)
        prompts[i].tokens[0] =
            static_cast<int32_t>(i % static_cast<size_t>(model.config().vocab_size));
      measure("answers", [&] {
        rollout::generate(ctx, model.decoder(), prompts, sampling,
                          [](const rollout::Completion&) {});
      });
    }
  }
  size_t peak = 0;
  for (const Phase& phase : p.phases) peak = std::max(peak, phase.peak);
  p.fragmentation = arena.stats().high_water > peak ? arena.stats().high_water - peak : 0;
  p.mapped_weights = model.mapped_bytes();
  p.process = kProgramBytes + pipeline_bytes(o) + tokenizer_bytes(o.pretrained, kTokenizerFactor);
  // The tokenizer comes first; then the weights' files are checked whole, and let go of piece by
  // piece where they are converted.
  p.starting = kProgramBytes +
               std::max(tokenizer_bytes(o.pretrained, kTokenizerLoadFactor),
                        tokenizer_bytes(o.pretrained, kTokenizerFactor) + model.file_bytes());
  p.gemm_flops = pass.gemm_flops;
  p.other_flops = pass.other_flops;
  p.bytes = pass.bytes;
  p.update_bytes = update.bytes;
  p.tokens_per_micro_batch = static_cast<double>(tokens);
  if (const auto rates = load_machine_rates()) {
    const double rate = model.dtype() == DType::bf16 ? rates->gemm_bf16 : rates->gemm_fp32;
    if (rate > 0 && rates->bandwidth > 0) {
      const double seconds =
          std::max(pass.gemm_flops / rate, pass.gemm_bytes / rates->bandwidth) +
          std::max(pass.other_flops / rates->gemm_fp32, pass.other_bytes / rates->bandwidth);
      p.seconds_per_token = seconds / p.tokens_per_micro_batch;
    }
  }
  p.checkpoint_bytes = state_bytes(model);
  p.result_bytes = result_bytes(model);
  return p;
}

// A plan needs no data.
void check(train::SftOptions o) {
  if (o.dataset.empty()) o.dataset.push_back("none");
  train::check_options(o);
}

// Tokens computed of a sample of full length: it has a micro-batch of its own where it is longer
// than the budget.
int64_t longest_sample(const train::SftOptions& o) {
  return train::effective_max_length(o, models::load_model_config(o.pretrained)) - 1;
}

}  // namespace

size_t Plan::peak() const {
  size_t n = fragmentation + outside();
  for (const size_t k : arena) n += k;
  return std::max(n, starting);
}

Plan plan_sft(const train::SftOptions& o) {
  check(o);
  int64_t tokens =
      o.micro_batch_tokens > 0 ? o.micro_batch_tokens : train::kDefaultMicroBatchTokens;
  if (o.memory > 0) tokens = std::max(tokens, longest_sample(o));
  return run_plan(o, tokens, o.grad_checkpoint);
}

train::SftOptions fit_memory(const train::SftOptions& options) {
  if (options.memory == 0) return options;
  check(options);
  const int64_t longest = longest_sample(options);
  train::SftOptions chosen = options;
  const auto fits = [&](int64_t tokens, bool recompute, size_t* peak) {
    const Plan p = run_plan(options, std::max(tokens, longest), recompute);
    size_t arena = p.fragmentation;
    for (const size_t k : p.arena) arena += k;
    *peak = std::max(p.peak(), p.outside() + arena + arena / kSlackDivisor);
    if (*peak > options.memory) return false;
    chosen.arena_limit = options.memory - p.outside();
    return true;
  };
  size_t least = ~size_t{0}, peak = 0;
  const std::vector<bool> policies =
      options.grad_checkpoint ? std::vector<bool>{true} : std::vector<bool>{false, true};
  const std::vector<int64_t> sizes = options.micro_batch_tokens > 0
                                         ? std::vector<int64_t>{options.micro_batch_tokens}
                                         : std::vector<int64_t>{2048, 1024, 512, 256};
  for (const bool recompute : policies) {
    int64_t tried = -1;
    for (const int64_t tokens : sizes) {
      if (std::max(tokens, longest) == tried) continue;
      tried = std::max(tokens, longest);
      const bool ok = fits(tokens, recompute, &peak);
      least = std::min(least, peak);
      if (!ok) continue;
      chosen.grad_checkpoint = recompute;
      chosen.micro_batch_tokens = tokens;
      return chosen;
    }
  }
  user_error(
      "memory",
      "{:.2f} GiB is not enough: the least this run needs is {:.2f} GiB (recomputation on, samples "
      "of up to {} tokens); "
      "raise --memory, or lower --max_length{}",
      static_cast<double>(options.memory) / (1 << 30), static_cast<double>(least) / (1 << 30),
      longest + 1,
      options.lora_rank == 0 && options.adapter.empty() ? ", or use LoRA (--lora_rank 8)" : "");
}

}  // namespace hone::plan
