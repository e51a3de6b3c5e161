// The products of a decoding pass: all of Qwen2.5-0.5B's weights once, one after another, from
// memory, as bf16 and as bf16t, on the path of HONE_ISA (else the best).
//
//   hone_decode_bench [rows]...     sequences that are decoded together; default 1 16 32
//
// Prints the time of a pass and, for comparison with the bandwidth of memory, the bytes of the bf16
// weights over it.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "backend/bf16t.h"
#include "backend/cpu/cpu.h"
#include "backend/desc/gemm.h"
#include "core/process.h"
#include "core/rng.h"

namespace hone {
namespace {

struct Shape {
  const char* name;
  int64_t out, in;
  int count;
};
constexpr Shape kShapes[] = {{"q", 896, 896, 24},     {"k", 128, 896, 24},
                             {"v", 128, 896, 24},     {"o", 896, 896, 24},
                             {"gate", 4864, 896, 24}, {"up", 4864, 896, 24},
                             {"down", 896, 4864, 24}, {"head", 151936, 896, 1}};
constexpr int kKinds = static_cast<int>(std::size(kShapes));
constexpr int kBlocks = 24;

// Memory of huge pages, as the arena's.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
      std::fprintf(stderr, "no memory\n");
      std::exit(1);
    }
    madvise(p, bytes_, MADV_HUGEPAGE);
    data_ = static_cast<char*>(p);
  }
  ~Memory() { munmap(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* take(int64_t bytes) {
    char* p = data_ + used_;
    used_ += (bytes + 4095) / 4096 * 4096;
    return p;
  }

 private:
  size_t bytes_;
  char* data_;
  int64_t used_ = 0;
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

struct Weights {
  explicit Weights(ThreadPool& pool) : memory(int64_t{2} << 30) {
    std::vector<uint16_t> some(1 << 16);
    for (size_t i = 0; i < some.size(); ++i) {
      const auto w = random_words(1, Purpose::test, 0, i);
      some[i] = bf16(static_cast<float>(0.02 * normal_double(w[0], w[1]))).bits;
    }
    uint64_t seed = 88172645463325252u;
    for (int block = 0; block < kBlocks; ++block) {
      for (int kind = 0; kind < kKinds; ++kind) {
        const Shape& s = kShapes[kind];
        if (block >= s.count) continue;
        const int64_t n = s.out * s.in;
        auto* numbers = reinterpret_cast<uint16_t*>(memory.take(n * 2));
        for (int64_t i = 0; i < n; ++i) {
          seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
          numbers[i] = some[seed & 0xffff];
        }
        const Bf16tPacker packer(numbers, s.out, s.in, pool);
        char* packed = memory.take(packer.bytes());
        packer.pack(packed);
        bytes += n * 2;
        packed_bytes += packer.bytes();
        for (const Format format : {Format::bf16, Format::bf16t}) {
          of[format == Format::bf16t][kind].push_back(
              {.data = format == Format::bf16t ? packed : reinterpret_cast<char*>(numbers),
               .rows = s.out,
               .cols = s.in,
               .stride_bytes = format_row_bytes(format, s.in),
               .format = format});
        }
      }
    }
  }
  Memory memory;
  std::vector<WeightView> of[2][kKinds];  // by bf16t
  int64_t bytes = 0, packed_bytes = 0;
};

void measure(const Weights& weights, ThreadPool& pool, cpu::Isa isa, int64_t rows) {
  const KernelTable table = cpu::kernel_table(isa);
  const DeviceProps props = cpu::device_props(pool.size());
  Memory memory(int64_t{1} << 30);
  char* x = memory.take(rows * 4864 * 2);
  std::fill_n(reinterpret_cast<uint16_t*>(x), rows * 4864, uint16_t{0x3f80});
  char* y = memory.take(rows * 151936 * 4);
  constexpr int64_t kScratch = int64_t{128} << 20;
  char* scratch = memory.take(kScratch);
  double best[2][kKinds];
  std::fill_n(&best[0][0], 2 * kKinds, 1e9);
  for (int round = 0; round < 12; ++round) {
    for (const bool packed : {false, true}) {
      if (packed && cpu::compact_format(isa) != Format::bf16t) continue;
      double seconds[kKinds] = {};
      for (int block = 0; block < kBlocks; ++block) {
        for (int kind = 0; kind < kKinds; ++kind) {
          const Shape& s = kShapes[kind];
          if (block >= s.count) continue;
          GemmDesc d;
          d.x = matrix(x, DType::bf16, rows, s.in);
          d.y = matrix(y, s.count == 1 ? DType::f32 : DType::bf16, rows, s.out);
          d.weights = &weights.of[packed][kind][static_cast<size_t>(block)];
          KernelCtx ctx;
          ctx.pool = &pool;
          ctx.props = &props;
          ctx.scratch = scratch;
          ctx.scratch_bytes = kScratch;
          const auto begin = std::chrono::steady_clock::now();
          if (const Status status = table.gemm.run(ctx, d); !status.ok()) {
            std::fprintf(stderr, "%s\n", status.error);
            std::exit(1);
          }
          const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
          seconds[kind] += took.count();
        }
      }
      for (int kind = 0; kind < kKinds; ++kind)
        best[packed][kind] = std::min(best[packed][kind], seconds[kind]);
    }
  }
  for (const bool packed : {false, true}) {
    if (packed && cpu::compact_format(isa) != Format::bf16t) continue;
    double total = 0;
    std::printf("%3lld rows  %-5s ", static_cast<long long>(rows), packed ? "bf16t" : "bf16");
    for (int kind = 0; kind < kKinds; ++kind) {
      const Shape& s = kShapes[kind];
      const double bytes = 2.0 * static_cast<double>(s.out * s.in * s.count);
      std::printf(" %s %.1f", s.name, bytes / best[packed][kind] / 1e9);
      total += best[packed][kind];
    }
    std::printf("  pass %.1f ms, %.1f GB/s\n", total * 1e3,
                static_cast<double>(weights.bytes) / total / 1e9);
  }
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  using namespace hone;
  const cpu::Isa isa = cpu::choose_isa();
  ThreadPool pool(available_threads());
  const Weights weights(pool);
  std::printf("path %s, %d threads; bf16t takes %.3f of bf16\n",
              std::string(cpu::isa_name(isa)).c_str(), pool.size(),
              static_cast<double>(weights.packed_bytes) / static_cast<double>(weights.bytes));
  std::vector<int64_t> rows;
  for (int i = 1; i < argc; ++i) rows.push_back(std::max(1, std::atoi(argv[i])));
  if (rows.empty()) rows = {1, 16, 32};
  for (const int64_t n : rows) measure(weights, pool, isa, n);
  return 0;
}
