// Grouped products against one dense product of the same operations and bytes of weights,
// alternated in one run: seconds, median of the rounds. HONE_ISA chooses the path.
//
//   hone_groups_bench [groups]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <vector>

#include "backend/cpu/cpu.h"
#include "backend/desc/gemm.h"

namespace {

using namespace hone;

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

std::vector<bf16> random_numbers(int64_t count) {
  std::minstd_rand rng(1);
  std::normal_distribution<float> normal;
  std::vector<bf16> v(static_cast<size_t>(count));
  for (size_t i = 0; i < v.size(); ++i) v[i] = i < 4099 ? bf16(normal(rng)) : v[i - 4099];
  return v;
}

double seconds(const Kernel<GemmDesc>& gemm, const KernelCtx& ctx, const GemmDesc& d) {
  const auto start = std::chrono::steady_clock::now();
  if (const Status s = gemm.run(ctx, d); !s.ok()) throw std::runtime_error(s.error);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Groups of [n, k] weights with rows each, against rows times one of [groups n, k] (nt), or [groups
// k, n] (nn).
void compare(GemmOp op, int groups, int64_t rows, int64_t n, int64_t k) {
  const bool nt = op == GemmOp::nt;
  const int threads = available_threads();
  ThreadPool pool(threads);
  const DeviceProps props = cpu::device_props(threads);
  const Kernel<GemmDesc> gemm = cpu::gemm(cpu::choose_isa());
  std::vector<bf16> w = random_numbers(groups * n * k), x = random_numbers(groups * rows * k);
  std::vector<bf16> y(static_cast<size_t>(groups * rows * n));
  const auto weight = [&](int64_t first, int64_t count) {
    return WeightView{.data = w.data() + first * n * k,
                      .rows = nt ? count * n : count * k,
                      .cols = nt ? k : n,
                      .stride_bytes = (nt ? k : n) * 2,
                      .format = Format::bf16};
  };
  std::vector<WeightView> each;
  std::vector<int32_t> offsets = {0};
  for (int g = 0; g < groups; ++g) {
    each.push_back(weight(g, 1));
    offsets.push_back(offsets.back() + static_cast<int32_t>(rows));
  }
  const WeightView one = weight(0, groups);
  GemmDesc grouped, dense;
  grouped.op = dense.op = op;
  grouped.x = matrix(x.data(), DType::bf16, groups * rows, k);
  grouped.y = matrix(y.data(), DType::bf16, groups * rows, n);
  grouped.weights = each.data();
  grouped.groups = groups;
  grouped.row_offsets = offsets.data();
  dense.x = matrix(x.data(), DType::bf16, rows, nt ? k : groups * k);
  dense.y = matrix(y.data(), DType::bf16, rows, nt ? groups * n : n);
  dense.weights = &one;
  std::vector<char> scratch(
      std::max(gemm.scratch_bytes(props, grouped), gemm.scratch_bytes(props, dense)) + 64);
  const auto aligned = (reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64;
  const KernelCtx ctx = {.pool = &pool,
                         .scratch = reinterpret_cast<void*>(aligned),
                         .scratch_bytes = scratch.size() - 64,
                         .props = &props};
  std::vector<double> a, b;
  for (int round = 0; round < 8; ++round) {
    const double first = seconds(gemm, ctx, grouped), second = seconds(gemm, ctx, dense);
    if (round == 0) continue;
    a.push_back(first);
    b.push_back(second);
  }
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  fmt::print(
      "{} {} groups of {:4} rows, N {} K {}: {:.1f} ms, dense {:.1f} ms, {:.2f}; best {:.2f}\n",
      nt ? "nt" : "nn", groups, rows, n, k, a[3] * 1e3, b[3] * 1e3, a[3] / b[3], a[0] / b[0]);
}

}  // namespace

int main(int argc, char** argv) {
  const int groups = argc > 1 ? std::atoi(argv[1]) : 64;
  try {
    for (const GemmOp op : {GemmOp::nt, GemmOp::nn}) {
      for (const int64_t rows : {24, 128}) compare(op, groups, rows, 1408, 2048);
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
  return 0;
}
