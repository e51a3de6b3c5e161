// Rates of hone's gemm and of oneDNN's matmul with weights packed beforehand, alternately in one
// run, on random data.
//
//   hone_gemm_bench [--quick] [--one] [filter]     filter: part of a row's name, for example
//   "nt bf16" or "T1 "; --one: one thread each, by processor time
//
// HONE_ISA chooses hone's path, ONEDNN_MAX_CPU_ISA oneDNN's. Each figure is the median of the
// rounds. Weights of short calls (T <= 16) rotate through copies that no cache holds, as the layers
// of a model do.
#include <fmt/format.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <oneapi/dnnl/dnnl.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "backend/desc/gemm.h"

namespace {

using namespace hone;
using dnnl::memory;

// Seconds: of the wall, or of this thread's processor time (on one thread: not disturbed by other
// programs).
double now(bool processor_time) {
  timespec t;
  clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

enum class Op { nt, nn, dw };

struct Shape {
  Op op;
  DType type;
  int64_t t, n, k, r = 0;
  DType weight = DType::f32;  // of x's type where x is bf16 and this isn't set to f32 by mixed
  bool mixed = false;         // bf16 x, f32 weight, f32 y (LoRA's down projection)
  std::string name() const {
    const char* ops[] = {"nt", "nn", "dw"};
    return fmt::format("{} {}{} T{} N{} K{}{}", ops[static_cast<int>(op)],
                       type == DType::bf16 ? "bf16" : "fp32", mixed ? "xfp32" : "", t, n, k,
                       r ? fmt::format(" R{}", r) : "");
  }
};

// Memory in huge pages where the system has them, like the product's arenas; for both sides.
class Memory {
 public:
  explicit Memory(size_t bytes) {
    bytes = (bytes + kPage) / kPage * kPage;
    data_.reset(static_cast<char*>(std::aligned_alloc(kPage, bytes)));
    madvise(data_.get(), bytes, MADV_HUGEPAGE);
    std::memset(data_.get(), 0, bytes);
  }
  char* data() { return data_.get(); }

 private:
  static constexpr size_t kPage = 2 << 20;
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data_;
};

// Random elements.
class Buffer : public Memory {
 public:
  Buffer(int64_t count, DType type, uint32_t seed)
      : Memory(static_cast<size_t>(count) * dtype_size(type)) {
    std::minstd_rand rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float> some(4099);
    for (float& f : some) f = normal(rng);
    for (int64_t i = 0; i < count; ++i) {
      const float f = some[static_cast<size_t>(i) % some.size()];
      if (type == DType::f32) {
        std::memcpy(data() + i * 4, &f, 4);
      } else {
        const bf16 h(f);
        std::memcpy(data() + i * 2, &h, 2);
      }
    }
  }
};

View matrix(void* data, DType type, int64_t rows, int64_t cols) {
  View v;
  v.data = data;
  v.dtype = type;
  v.rank = 2;
  v.shape[0] = rows;
  v.shape[1] = cols;
  v.stride[0] = cols;
  v.stride[1] = 1;
  return v;
}

class Bench {
 public:
  Bench(int threads, bool quick)
      : pool_(threads),
        props_(cpu::device_props(threads)),
        isa_(cpu::choose_isa()),
        quick_(quick) {}

  void bandwidth() {
    constexpr int64_t kCount = 512 << 20, kStreams = 4;
    Memory memory(kCount);
    double best = 0;
    volatile uint64_t sink = 0;
    for (int round = 0; round < 5; ++round) {
      const double start = now(pool_.size() == 1);
      pool_.run(pool_.size() * kStreams, [&](int64_t task, int) {
        const int64_t part = kCount / (pool_.size() * kStreams);
        const char* p = memory.data() + task * part;
        uint64_t sum = 0;
        for (int64_t i = 0; i + 64 <= part; i += 64) {
          __builtin_prefetch(p + i + 4096);
          uint64_t word;
          std::memcpy(&word, p + i, 8);
          sum += word;
        }
        sink = sink + sum;
      });
      best = std::max(best, static_cast<double>(kCount) / (now(pool_.size() == 1) - start) / 1e9);
    }
    fmt::print("path {}, {} threads, memory reads {:.1f} GB/s (best of 5 over 512 MB)\n",
               cpu::isa_name(isa_), pool_.size(), best);
  }

  void run(const Shape& s) {
    const DType w_type = s.mixed ? DType::f32 : s.type;
    const DType y_type = s.op == Op::dw || s.mixed ? DType::f32 : s.type;
    const int64_t w_count = s.op == Op::dw ? s.t * s.k : s.n * s.k;
    const int64_t x_count = s.op == Op::dw ? s.t * s.n : s.t * s.k;
    const int64_t y_count = s.op == Op::dw ? s.n * s.k : s.t * s.n;
    const int64_t w_bytes = w_count * static_cast<int64_t>(dtype_size(w_type));
    const int copies = s.op != Op::dw && s.t <= 16
                           ? static_cast<int>(std::clamp<int64_t>((512 << 20) / w_bytes, 1, 64))
                           : 1;
    std::vector<Buffer> weights;
    for (int i = 0; i < copies; ++i)
      weights.emplace_back(w_count, w_type, 1 + static_cast<uint32_t>(i));
    Buffer x(x_count, s.type, 77), y(y_count, y_type, 78);
    Buffer x2(s.t * std::max<int64_t>(s.r, 1), DType::f32, 79),
        w2(s.n * std::max<int64_t>(s.r, 1), DType::f32, 80);

    // hone
    GemmDesc d;
    GemmDwDesc dw;
    WeightView weight, weight2;
    View dw_view;
    size_t scratch_bytes = 0;
    const Kernel<GemmDesc> gemm = cpu::gemm(isa_);
    const Kernel<GemmDwDesc> gemm_dw = cpu::gemm_dw(isa_);
    if (s.op == Op::dw) {
      dw_view = matrix(y.data(), DType::f32, s.n, s.k);
      dw = {.dy = matrix(x.data(), s.type, s.t, s.n),
            .x = matrix(weights[0].data(), w_type, s.t, s.k),
            .dw = &dw_view};
      scratch_bytes = gemm_dw.scratch_bytes(props_, dw);
    } else {
      const bool nt = s.op == Op::nt;
      weight = {.data = weights[0].data(), .rows = nt ? s.n : s.k, .cols = nt ? s.k : s.n};
      weight.stride_bytes = weight.cols * static_cast<int64_t>(dtype_size(w_type));
      weight.format = w_type == DType::f32 ? Format::f32 : Format::bf16;
      d = {.op = nt ? GemmOp::nt : GemmOp::nn,
           .x = matrix(x.data(), s.type, s.t, s.k),
           .weights = &weight,
           .y = matrix(y.data(), y_type, s.t, s.n)};
      if (s.r) {
        weight2 = {.data = w2.data(), .rows = nt ? s.n : s.r, .cols = nt ? s.r : s.n};
        weight2.stride_bytes = weight2.cols * 4;
        d.x2 = matrix(x2.data(), DType::f32, s.t, s.r);
        d.weights2 = &weight2;
      }
      scratch_bytes = gemm.scratch_bytes(props_, d);
    }
    Memory scratch(scratch_bytes);
    const KernelCtx ctx = {.pool = &pool_,
                           .scratch = scratch.data(),
                           .scratch_bytes = scratch_bytes,
                           .props = &props_};
    int turn = 0;
    const auto ours = [&] {
      if (s.op == Op::dw) {
        check(gemm_dw.run(ctx, dw));
      } else {
        weight.data = weights[static_cast<size_t>(turn++ % copies)].data();
        check(gemm.run(ctx, d));
      }
    };

    // oneDNN
    const auto type = [](DType t) {
      return t == DType::f32 ? memory::data_type::f32 : memory::data_type::bf16;
    };
    using Dims = memory::dims;
    const int64_t m = s.op == Op::dw ? s.n : s.t, n = s.op == Op::dw ? s.k : s.n,
                  k = s.op == Op::dw ? s.t : s.k;
    const Dims w_strides = s.op == Op::nt ? Dims{1, k} : Dims{n, 1};
    const memory::desc src({m, k}, type(s.type), s.op == Op::dw ? Dims{1, m} : Dims{k, 1});
    const memory::desc wei_plain({k, n}, type(s.mixed ? s.type : w_type), w_strides);
    const memory::desc wei_any({k, n}, type(s.mixed ? s.type : w_type), memory::format_tag::any);
    const memory::desc dst({m, n}, type(y_type), Dims{n, 1});
    // allow_empty: oneDNN has no bf16 product for processors without AVX-512
    const dnnl::matmul::primitive_desc pd(
        dnnl::matmul::desc(src, s.op == Op::dw ? wei_plain : wei_any, dst), engine_, true);
    const bool has_rival = !s.mixed && pd;
    const dnnl::matmul matmul = has_rival ? dnnl::matmul(pd) : dnnl::matmul();
    memory src_memory(src, engine_, x.data()), dst_memory(dst, engine_, y.data());
    std::vector<Memory> packed_bytes;
    std::vector<memory> packed;
    if (has_rival) {
      for (Buffer& b : weights) {
        memory plain(wei_plain, engine_, b.data());
        if (pd.weights_desc() == wei_plain) {
          packed.push_back(plain);
        } else {
          packed_bytes.emplace_back(pd.weights_desc().get_size());
          packed.emplace_back(pd.weights_desc(), engine_, packed_bytes.back().data());
          dnnl::reorder(plain, packed.back()).execute(stream_, plain, packed.back());
          stream_.wait();
        }
      }
    }
    const auto theirs = [&] {
      memory& w = packed[static_cast<size_t>(turn++ % copies)];
      matmul.execute(
          stream_, {{DNNL_ARG_SRC, src_memory}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, dst_memory}});
      stream_.wait();
    };

    const double flops =
        2.0 * static_cast<double>(s.t) * static_cast<double>(s.n) * static_cast<double>(s.k);
    const auto timed = [&](const auto& call) {
      call();
      call();
      const double start = now(pool_.size() == 1);
      int calls = 0;
      double time = 0;
      do {
        call();
        ++calls;
        time = (now(pool_.size() == 1) - start);
      } while (time < (quick_ ? 0.02 : 0.05));
      return time / calls;
    };
    std::vector<double> a, b;
    // a side begins when the other's threads have stopped looking for work
    const auto rest = [] { usleep(20000); };
    for (int round = 0; round < (quick_ ? 5 : 11); ++round) {
      rest();
      a.push_back(timed(ours));
      if (!has_rival) continue;
      rest();
      b.push_back(timed(theirs));
    }
    const auto median = [](std::vector<double>& v) {
      std::sort(v.begin(), v.end());
      return v.empty() ? 0 : v[v.size() / 2];
    };
    const double our_time = median(a), their_time = median(b);
    std::string line = fmt::format("{:34} {:8.1f} (best {:7.1f})", s.name(), flops / our_time / 1e9,
                                   flops / a[0] / 1e9);
    if (their_time > 0) {
      line += fmt::format(" {:8.1f} (best {:7.1f}) {:6.2f} {:6.2f}", flops / their_time / 1e9,
                          flops / b[0] / 1e9, their_time / our_time, b[0] / a[0]);
    } else {
      line += fmt::format("{:42}", "");
    }
    const double bytes = static_cast<double>(w_bytes) +
                         static_cast<double>(x_count) * static_cast<double>(dtype_size(s.type)) +
                         static_cast<double>(y_count) * static_cast<double>(dtype_size(y_type));
    fmt::print("{} {:7.1f} GB/s\n", line, bytes / our_time / 1e9);
    std::fflush(stdout);
  }

 private:
  static void check(Status s) {
    if (!s.ok()) throw std::runtime_error(s.error);
  }

  ThreadPool pool_;
  DeviceProps props_;
  cpu::Isa isa_;
  bool quick_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
};

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (DType type : {DType::bf16, DType::f32}) {
    for (Op op : {Op::nt, Op::nn}) {
      for (int64_t t : {1, 16, 256, 2048}) {
        for (auto [n, k] : {std::pair{4864, 896}, {896, 4864}, {896, 896}, {128, 896}}) {
          // the input gradient of a layer [n, k] reduces over n
          all.push_back(op == Op::nt ? Shape{op, type, t, n, k} : Shape{op, type, t, k, n});
        }
      }
      for (int64_t t : {256, 1024}) {
        all.push_back(op == Op::nt ? Shape{op, type, t, 1024, 896} : Shape{op, type, t, 896, 1024});
      }
      all.push_back({op, type, 1, 4096, 4096});
      all.push_back({op, type, 16, 4096, 4096});
      all.push_back({op, type, 2048, 4096, 4096});
      all.push_back({op, type, 1024, 3584, 18944});
    }
    for (auto [n, k] : {std::pair{4864, 896}, {896, 4864}, {896, 896}}) {
      all.push_back({Op::dw, type, 1024, n, k});
      all.push_back({Op::dw, type, 2048, n, k});
    }
  }
  // with LoRA's second segment (oneDNN without it); its down projections
  for (int64_t t : {16, 256, 2048}) {
    all.push_back({Op::nt, DType::bf16, t, 4864, 896, 8});
    all.push_back({Op::nn, DType::bf16, t, 896, 4864, 8});
    all.push_back({.op = Op::nt, .type = DType::bf16, .t = t, .n = 8, .k = 896, .mixed = true});
    all.push_back({.op = Op::nt, .type = DType::bf16, .t = t, .n = 8, .k = 4864, .mixed = true});
    all.push_back({.op = Op::nn, .type = DType::bf16, .t = t, .n = 8, .k = 4864, .mixed = true});
    all.push_back({.op = Op::dw, .type = DType::bf16, .t = t, .n = 4864, .k = 8, .mixed = true});
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  bool quick = false, one = false;
  std::string filter;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--quick") {
      quick = true;
    } else if (std::string(argv[i]) == "--one") {
      one = true;
    } else {
      filter = argv[i];
    }
  }
  // oneDNN's threads are counted when the program is loaded.
  if (one && std::getenv("OMP_NUM_THREADS") == nullptr) {
    setenv("OMP_NUM_THREADS", "1", 1);
    execv("/proc/self/exe", argv);
  }
  try {
    Bench bench(one ? 1 : available_threads(), quick);
    bench.bandwidth();
    fmt::print(
        "GFLOP/s, median (best)                      hone                    oneDNN packed     "
        "hone/oneDNN: median, best\n");
    for (const Shape& s : shapes()) {
      if (s.name().find(filter) != std::string::npos) bench.run(s);
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
  return 0;
}
