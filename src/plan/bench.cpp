#include "plan/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "backend/desc/elementwise.h"
#include "backend/desc/gemm.h"
#include "core/rng.h"
#include "exec/machine.h"
#include "exec/memory.h"
#include "exec/profile.h"
#include "io/files.h"
#include "loss/objective.h"
#include "optim/adamw.h"
#include "train/pass.h"

namespace hone::plan {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Best of a few repetitions: a neighbour only ever makes it slower.
double best_seconds(const std::function<void()>& work, double budget) {
  work();
  double best = 1e30, spent = 0;
  for (int i = 0; i < 50 && (i < 3 || spent < budget); ++i) {
    const double s = seconds_of(work);
    best = std::min(best, s);
    spent += s;
  }
  return best;
}

// Normal numbers (zeros run faster than real data on AMX); the same block over and over is fine.
void fill_random(const Device& device, const Tensor& t, double scale, uint64_t id) {
  constexpr int64_t kPeriod = 8191;
  std::vector<float> block(kPeriod);
  for (int64_t i = 0; i < kPeriod; ++i) {
    const auto w = random_words(1, Purpose::test, id, static_cast<uint64_t>(i));
    block[static_cast<size_t>(i)] = static_cast<float>(scale * normal_double(w[0], w[1]));
  }
  for (int64_t first = 0, n = t.numel(); first < n; first += kPeriod)
    write(device, t, first,
          std::span(block).first(static_cast<size_t>(std::min(kPeriod, n - first))));
}

struct Shape {
  const char* name;
  int64_t n, k;
  int count;
};

class Bench {
 public:
  Bench(const BenchOptions& o, const std::function<void(const std::string&)>& print)
      : o_(o),
        print_(print),
        machine_({.threads = o.threads}),
        config_(models::load_model_config(o.pretrained)) {
    ctx_.device = &machine_.device(o.dtype);
    ctx_.params = &params_;
    ctx_.dtype = o.dtype;
    ctx_.policy = o.recompute ? BlockPolicy::recompute : BlockPolicy::keep;
  }

  BenchResult run() {
    print_(fmt::format("path {}, {} threads, {}", machine_.path(o_.dtype).name,
                       machine_.pool().size(), dtype_name(o_.dtype)));
    r_.rates.bandwidth = bandwidth();
    print_(fmt::format("memory read            {:>8.1f} GB/s", r_.rates.bandwidth / 1e9));
    for (const DType t : {DType::f32, DType::bf16}) products(t);
    save_machine_rates(r_.rates);
    step();
    return r_;
  }

 private:
  double bandwidth() {
    const Tensor x = ctx_.empty(DType::f32, {int64_t{1} << 27});
    zero(ctx_, x);
    const auto words = readable_as<uint64_t>(*ctx_.device, x.view());
    const auto chunks = int64_t{256}, n = static_cast<int64_t>(words.size());
    std::vector<uint64_t> sums(chunks);
    const double s = best_seconds(
        [&] {
          machine_.pool().run(chunks, [&](int64_t c, int) {
            uint64_t a = 0, b = 0, d = 0, e = 0;
            for (int64_t i = c * (n / chunks), end = i + n / chunks; i < end; i += 4) {
              a += words[static_cast<size_t>(i)];
              b += words[static_cast<size_t>(i) + 1];
              d += words[static_cast<size_t>(i) + 2];
              e += words[static_cast<size_t>(i) + 3];
            }
            sums[static_cast<size_t>(c)] = a + b + d + e;
          });
        },
        0.5);
    return static_cast<double>(x.bytes()) / s;
  }

  // The linears of the first block by shape, with how many there are of each.
  std::vector<Shape> block_shapes() const {
    ParamStore store;
    models::Decoder decoder(config_, store, Format::f32);
    std::vector<Shape> shapes;
    for (const nn::Linear* l : decoder.linears()) {
      if (l->unit != 1) continue;
      const auto same = std::find_if(shapes.begin(), shapes.end(),
                                     [&](const Shape& s) { return s.n == l->out && s.k == l->in; });
      if (same == shapes.end()) {
        shapes.push_back({l->params.label, l->out, l->in, 1});
      } else {
        ++same->count;
      }
    }
    return shapes;
  }

  // The rate over one block's products, weighted as a step has them.
  void products(DType t) {
    double flops = 0, seconds = 0;
    for (const auto& [name, out, in, count] : block_shapes()) {
      const Tensor x = ctx_.empty(t, {o_.tokens, in}), w = ctx_.empty(t, {out, in}),
                   y = ctx_.empty(t, {o_.tokens, out});
      fill_random(*ctx_.device, x, 1, 1);
      fill_random(*ctx_.device, w, 0.05, 2);
      fill_random(*ctx_.device, y, 1, 3);
      const WeightView weight = contiguous_weight(t == DType::bf16 ? Format::bf16 : Format::f32,
                                                  w.view().data, nullptr, out, in);
      const GemmDesc forward{.x = x.view(), .weights = &weight, .y = y.view()};
      const double work = 2.0 * static_cast<double>(o_.tokens * out * in);
      const double nt = best_seconds([&] { launch(ctx_, forward); }, 0.15);
      fill_random(*ctx_.device, y, 1, 3);
      const GemmDesc backward{.op = GemmOp::nn, .x = y.view(), .weights = &weight, .y = x.view()};
      const double nn = best_seconds([&] { launch(ctx_, backward); }, 0.15);
      print_(
          fmt::format("{} {:<9} {:>5} x {:>5}  forward {:>7.0f} GFLOP/s, input gradient {:>7.0f}",
                      dtype_name(t), name, out, in, work / nt / 1e9, work / nn / 1e9));
      flops += count * 2 * work;
      seconds += count * (nt + nn);
    }
    (t == DType::bf16 ? r_.rates.gemm_bf16 : r_.rates.gemm_fp32) = flops / seconds;
    print_(fmt::format("{} products of a block together {:.0f} GFLOP/s", dtype_name(t),
                       flops / seconds / 1e9));
  }

  void step() {
    models::Decoder decoder(config_, params_, o_.dtype == DType::bf16 ? Format::bf16 : Format::f32);
    if (o_.lora_rank > 0) {
      for (nn::Linear* l : decoder.linears())
        nn::add_lora(params_, *l, {.rank = o_.lora_rank, .scale = 2});
    }
    for (ParamId id = 0; id < params_.count(); ++id) {
      if (o_.lora_rank == 0) params_.set_trainable(id, true);
      fill_random(*ctx_.device, params_.own(id, machine_.arena(), params_.spec(id).format),
                  params_.spec(id).shape.size() == 1 ? 1 : 0.02, static_cast<uint64_t>(id));
    }
    params_.allocate_gradients(machine_.arena());
    optim::AdamW adamw(ctx_, {});
    const data::MicroBatch mb = micro_batch();
    const double tokens = static_cast<double>(mb.stream.size());
    const auto one = [&] {
      train::zero_gradients(ctx_);
      train::forward_backward(
          ctx_, decoder, loss::SftObjective(),
          {.micro_batches = {&mb, 1}, .step_tokens = static_cast<int64_t>(mb.targets.size())});
      optim::gradient_norm(ctx_);
      adamw.step(ctx_, 1e-5, 1.0, 1);
    };
    one();
    Profiler best;
    double best_span = 1e30;
    for (int i = 0; i < 3; ++i) {
      Profiler p;
      ctx_.observer = &p;
      one();
      ctx_.observer = nullptr;
      if (p.span_seconds() < best_span) {
        best_span = p.span_seconds();
        best = std::move(p);
      }
    }
    const double rate = o_.dtype == DType::bf16 ? r_.rates.gemm_bf16 : r_.rates.gemm_fp32;
    print_(best.table(rate, r_.rates.bandwidth));
    for (const Profiler::Row& row : best.rows()) {
      if (is_product(row.id)) r_.product_flops += row.flops;
    }
    r_.tokens = mb.stream.size();
    r_.step_seconds = best_span;
    r_.fraction = r_.product_flops / best_span / rate;
    print_(
        fmt::format("step: {:.0f} tokens in {:.3f} s = {:.0f} tokens/s; {:.2f} GFLOP of products a "
                    "token: {:.0f} GFLOP/s over the whole step, "
                    "{:.2f} of the machine's rate on these shapes",
                    tokens, best_span, tokens / best_span, r_.product_flops / tokens / 1e9,
                    r_.product_flops / best_span / 1e9, r_.fraction));
    if (!o_.trace.empty()) io::write_file_atomically(o_.trace, best.chrome_trace());
  }

  // Sequences of o.length tokens; the later half of each is trained, as in chats.
  data::MicroBatch micro_batch() const {
    data::MicroBatch mb;
    for (int64_t left = o_.tokens, segment = 0; left > 0; ++segment) {
      const int64_t n = std::min(left, o_.length), begin = mb.stream.size();
      std::vector<int32_t> tokens;
      for (int64_t i = 0; i < n; ++i) {
        const auto w = random_words(1, Purpose::test, 99, static_cast<uint64_t>(begin + i));
        tokens.push_back(static_cast<int32_t>(w[0] % static_cast<uint32_t>(config_.vocab_size)));
      }
      mb.stream.append(tokens, static_cast<uint64_t>(segment));
      mb.samples.push_back(segment);
      for (int64_t i = n / 2; i < n; ++i) {
        mb.rows.push_back(static_cast<int32_t>(begin + i));
        mb.targets.push_back(tokens[static_cast<size_t>(i)]);
        mb.row_segments.push_back(static_cast<int32_t>(segment));
        mb.row_positions.push_back(i + 1);
      }
      left -= n;
    }
    mb.tokens = mb.stream.size();
    return mb;
  }

  BenchOptions o_;
  const std::function<void(const std::string&)>& print_;
  Machine machine_;
  models::ModelConfig config_;
  ParamStore params_;
  Context ctx_;
  BenchResult r_;
};

}  // namespace

BenchResult run_bench(const BenchOptions& options,
                      const std::function<void(const std::string&)>& print) {
  if (options.tokens < 1 || options.length < 2)
    user_error("tokens", "use at least 1 token and sequences of at least 2");
  return Bench(options, print).run();
}

}  // namespace hone::plan
