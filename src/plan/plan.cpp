#include "plan/plan.h"

#include <algorithm>

#include "exec/profile.h"
#include "train/checkpointing.h"
#include "train/tuning.h"

namespace hone::plan {
namespace {

// Parts of the process outside of the arena, as VmHWM and RssAnon + RssFile showed them on Debian
// 12 (x86-64, 2 threads, 2026-11-28):
// the program, its libraries, stacks and heap: 16 MB of file pages and 5 MB of its own.
constexpr size_t kProgramBytes = size_t{21} << 20;
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
    const bool product = is_product(id);
    (product ? gemm_flops : other_flops) += cost.flops;
    (product ? gemm_bytes : other_bytes) += cost.bytes;
  }
  void after() override {}
  double bytes() const { return gemm_bytes + other_bytes; }
  double gemm_flops = 0, other_flops = 0, gemm_bytes = 0, other_bytes = 0;
};

size_t tokenizer_bytes(const std::filesystem::path& folder, double factor) {
  std::error_code error;
  const auto n = std::filesystem::file_size(folder / "tokenizer.json", error);
  return error ? 0 : static_cast<size_t>(static_cast<double>(n) * factor);
}

size_t pipeline_bytes(const train::DataOptions& o) {
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

size_t result_bytes(load::Model& model) {
  size_t n = 0;
  const bool adapter = model.adapter_config().has_value();
  for (ParamId id = 0; id < model.params().count(); ++id) {
    if (model.params().spec(id).adapter == adapter)
      n += static_cast<size_t>(model.params().bytes(id));
  }
  return n;
}

// One trainer on a meta machine of its own.
class Planned {
 public:
  Planned(const train::TrainerOptions& o, const train::MakeRecipe& make)
      : o_(o), machine_({.threads = o.threads, .meta = true}), recipe_(make(machine_, nullptr)) {}

  int64_t longest_unit() const { return recipe_->longest_unit(); }
  // After run(): that weights_memory may be, and what it would spare.
  size_t least_weights_memory() const { return recipe_->model().least_weights_memory(); }
  // Once.
  Plan run(int64_t tokens, bool recompute);

 private:
  // Notes the arena's peak during the work.
  CostObserver measure(const char* phase, Context& ctx, const std::function<void()>& work);
  void count_parameters();
  void estimate_time(const CostObserver& pass);

  const train::TrainerOptions& o_;
  Machine machine_;
  std::unique_ptr<train::Recipe> recipe_;
  Plan plan_;
  size_t highest_ = 0;
};

CostObserver Planned::measure(const char* phase, Context& ctx, const std::function<void()>& work) {
  Arena& arena = machine_.arena();
  arena.reset_peak();
  CostObserver costs;
  ctx.observer = &costs;
  work();
  ctx.observer = nullptr;
  plan_.phases.push_back({phase, arena.stats().peak_in_use});
  if (arena.stats().peak_in_use > highest_) {
    highest_ = arena.stats().peak_in_use;
    plan_.arena = arena.stats().by_kind_at_peak;
  }
  return costs;
}

void Planned::count_parameters() {
  const ParamStore& params = recipe_->model().params();
  for (ParamId id = 0; id < params.count(); ++id) {
    plan_.parameters += params.spec(id).numel();
    if (params.spec(id).trainable) plan_.trainable += params.spec(id).numel();
  }
}

void Planned::estimate_time(const CostObserver& pass) {
  const auto rates = load_machine_rates();
  if (!rates) return;
  const double rate = recipe_->model().dtype() == DType::bf16 ? rates->gemm_bf16 : rates->gemm_fp32;
  if (!(rate > 0 && rates->bandwidth > 0)) return;
  const double seconds =
      std::max(pass.gemm_flops / rate, pass.gemm_bytes / rates->bandwidth) +
      std::max(pass.other_flops / rates->gemm_fp32, pass.other_bytes / rates->bandwidth);
  plan_.seconds_per_token = seconds / plan_.tokens_per_micro_batch;
}

Plan Planned::run(int64_t tokens, bool recompute) {
  Plan& p = plan_;
  p.micro_batch_tokens = tokens;
  p.recompute = recompute;
  p.tokens_per_micro_batch = static_cast<double>(tokens);
  load::Model& model = recipe_->model();
  count_parameters();
  Arena& arena = machine_.arena();
  Context ctx = train::load_to_train(model, o_);
  ctx.policy = recompute ? BlockPolicy::recompute : BlockPolicy::keep;
  p.phases.push_back({"load", arena.stats().peak_in_use});
  const auto adamw = train::make_optimizer(ctx, o_);
  p.phases.push_back({"optimizer state", arena.stats().in_use});

  const std::vector<train::Recipe::Work> work = recipe_->fullest(tokens);
  const CostObserver pass = measure(work[0].phase, ctx, [&] {
    train::zero_gradients(ctx);
    work[0].run(ctx);
  });
  const CostObserver update = measure("update", ctx, [&] {
    optim::gradient_norm(ctx);
    adamw->step(ctx, 1e-4, 1.0, 1);
  });
  for (size_t i = 1; i < work.size(); ++i) measure(work[i].phase, ctx, [&] { work[i].run(ctx); });
  size_t peak = 0;
  for (const Phase& phase : p.phases) peak = std::max(peak, phase.peak);
  p.fragmentation = arena.stats().high_water > peak ? arena.stats().high_water - peak : 0;
  const size_t frozen = model.mapped_bytes();
  if (o_.weights_memory == 0) {
    p.mapped_weights = frozen;
  } else {
    p.streamed_weights = std::min<size_t>(o_.weights_memory, frozen);
    // up through the blocks and down again: what there is room for isn't read anew at the turns
    p.disk_bytes = 2 * (frozen - p.streamed_weights);
  }
  p.process = kProgramBytes + pipeline_bytes(o_) + recipe_->host_bytes() +
              tokenizer_bytes(o_.pretrained, kTokenizerFactor);
  p.starting = kProgramBytes + tokenizer_bytes(o_.pretrained, kTokenizerLoadFactor);
  p.gemm_flops = pass.gemm_flops;
  p.other_flops = pass.other_flops;
  p.bytes = pass.bytes();
  p.update_bytes = update.bytes();
  estimate_time(pass);
  p.checkpoint_bytes = train::checkpoint_bytes(model, *adamw);
  p.result_bytes = result_bytes(model);
  return p;
}

}  // namespace

size_t Plan::peak() const {
  size_t n = fragmentation + outside();
  for (const size_t k : arena) n += k;
  return std::max(n, starting);
}

Plan plan_run(const train::TrainerOptions& o, const train::MakeRecipe& make) {
  Planned planned(o, make);
  int64_t tokens =
      o.micro_batch_tokens > 0 ? o.micro_batch_tokens : train::kDefaultMicroBatchTokens;
  if (o.memory > 0) tokens = std::max(tokens, planned.longest_unit());
  return planned.run(tokens, o.grad_checkpoint);
}

namespace {

// Tokens of a micro-batch to try, falling.
std::vector<int64_t> sizes_to_try(const train::TrainerOptions& o) {
  if (o.micro_batch_tokens > 0) return {o.micro_batch_tokens};
  std::vector<int64_t> sizes;
  for (int64_t n = train::kDefaultMicroBatchTokens; n >= 256; n /= 2) sizes.push_back(n);
  return sizes;
}

// Of tensors, with what a promise leaves free.
size_t arena_of(const Plan& p) {
  size_t arena = p.fragmentation;
  for (const size_t k : p.arena) arena += k;
  return arena + arena / kSlackDivisor;
}

}  // namespace

void fit_memory(train::TrainerOptions& o, const train::MakeRecipe& make) {
  if (o.memory == 0) return;
  const int64_t longest = Planned(o, make).longest_unit();
  const std::vector<int64_t> sizes = sizes_to_try(o);
  size_t least = ~size_t{0};
  // try_one(tokens, recompute): whether the run is set to that.
  const auto first_that_fits = [&](const std::vector<bool>& policies, auto&& try_one) {
    for (const bool recompute : policies) {
      int64_t tried = -1;
      for (const int64_t tokens : sizes) {
        if (std::max(tokens, longest) == tried) continue;
        tried = std::max(tokens, longest);
        if (!try_one(tried, recompute)) continue;
        o.grad_checkpoint = recompute;
        o.micro_batch_tokens = tokens;
        return true;
      }
    }
    return false;
  };
  const auto resident = [&](int64_t tokens, bool recompute) {
    const Plan p = Planned(o, make).run(tokens, recompute);
    const size_t peak = std::max(p.peak(), p.outside() + arena_of(p));
    least = std::min(least, peak);
    if (peak > o.memory) return false;
    o.arena_limit = o.memory - p.outside();
    return true;
  };
  // Frozen weights from disk. Each micro-batch is a pass over all of them, so the largest that
  // leaves room for them is best.
  const auto streamed = [&](int64_t tokens, bool recompute) {
    Planned planned(o, make);
    const Plan p = planned.run(tokens, recompute);
    const size_t need = p.process + arena_of(p), weights = planned.least_weights_memory();
    if (weights >= p.mapped_weights) return false;
    least = std::min(least, need + weights);
    if (need + weights > o.memory) return false;
    o.weights_memory.bytes = o.memory - need;
    o.arena_limit = arena_of(p);
    if (Planned(o, make).run(tokens, recompute).peak() <= o.memory) return true;
    o.weights_memory.bytes = 0;
    return false;
  };
  const std::vector<bool> policies =
      o.grad_checkpoint ? std::vector<bool>{true} : std::vector<bool>{false, true};
  if (first_that_fits(policies, resident)) return;
  if (o.weights_memory == 0 && first_that_fits({true}, streamed)) return;
  user_error("memory",
             "{:.2f} GiB is not enough: the least this run needs is {:.2f} GiB (recomputation on, "
             "micro-batches of up to {} tokens); raise --memory, or lower --max_length{}",
             static_cast<double>(o.memory) / (1 << 30), static_cast<double>(least) / (1 << 30),
             longest, o.lora_rank == 0 && o.adapter.empty() ? ", or use LoRA (--lora_rank 8)" : "");
}

}  // namespace hone::plan
