// Time of attention and its backward pass by instruction path, on random data in a fused qkv
// buffer. Usage: attention_bench [path] [threads]. GFLOP/s count the pairs of query and key that
// see each other: 4 D a pair and head forward, 10 D backward.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"

namespace hone {
namespace {

struct Case {
  const char* name;
  int heads, key_heads, dim;
  int sequences, keys, queries;  // of each sequence; queries < keys: decoding, no backward
};

struct Tensors {
  std::vector<char> qkv, out, dqkv, dout;
  std::vector<float> saved;
};

View rows(char* data, DType dtype, int64_t n, int64_t heads, int64_t dim, int64_t stride) {
  View v;
  v.data = data;
  v.dtype = dtype;
  v.rank = 3;
  v.shape[0] = n, v.shape[1] = heads, v.shape[2] = dim;
  v.stride[0] = stride, v.stride[1] = dim, v.stride[2] = 1;
  return v;
}

void fill(std::vector<char>& to, size_t count, DType dtype, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  to.resize(count * dtype_size(dtype));
  for (size_t i = 0; i < count; ++i) {
    if (dtype == DType::bf16) {
      reinterpret_cast<bf16*>(to.data())[i] = bf16(normal(rng));
    } else {
      reinterpret_cast<float*>(to.data())[i] = normal(rng);
    }
  }
}

template <class Desc>
double best_ms(const Kernel<Desc>& kernel, const Desc& d, ThreadPool& pool) {
  const DeviceProps props = cpu::device_props(pool.size());
  const size_t bytes = kernel.scratch_bytes(props, d);
  void* scratch = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  const KernelCtx ctx{.pool = &pool, .scratch = scratch, .scratch_bytes = bytes, .props = &props};
  double best = 1e30, spent = 0;
  for (int i = 0; i < 3 || (spent < 400 && i < 200); ++i) {
    const auto start = std::chrono::steady_clock::now();
    const Status status = kernel.run(ctx, d);
    const double ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (!status.ok()) runtime_error("bench", "{}", status.error);
    best = std::min(best, ms);
    spent += ms;
  }
  std::free(scratch);
  return best;
}

void run(const Case& c, cpu::Isa isa, DType dtype, ThreadPool& pool) {
  std::mt19937 rng(1);
  const int64_t q_rows = int64_t{c.sequences} * c.queries, k_rows = int64_t{c.sequences} * c.keys;
  const int64_t width = int64_t{c.heads + 2 * c.key_heads} * c.dim;
  const size_t e = dtype_size(dtype);
  Tensors t;
  fill(t.qkv, static_cast<size_t>(k_rows * width), dtype, rng);
  fill(t.dout, static_cast<size_t>(q_rows * c.heads * c.dim), dtype, rng);
  t.out.resize(t.dout.size());
  t.dqkv.resize(t.qkv.size());
  t.saved.resize(static_cast<size_t>(q_rows * c.heads * 2));
  std::vector<std::vector<KeyBlock>> blocks;
  std::vector<AttentionSegment> segments;
  for (int s = 0; s < c.sequences; ++s) {
    blocks.emplace_back();
    for (int i = 0; i < c.keys; i += kKeyBlock) blocks.back().push_back({.row = s * c.keys + i});
    segments.push_back({s * c.queries, c.queries, c.keys, blocks.back().data()});
  }
  const auto part = [&](std::vector<char>& buffer, int64_t n, int head, int count) {
    return rows(buffer.data() + head * c.dim * e, dtype, n, count, c.dim, width);
  };
  AttentionDesc f{.q = part(t.qkv, q_rows, 0, c.heads),
                  .k = part(t.qkv, k_rows, c.heads, c.key_heads),
                  .v = part(t.qkv, k_rows, c.heads + c.key_heads, c.key_heads),
                  .out = rows(t.out.data(), dtype, q_rows, c.heads, c.dim, c.heads * c.dim),
                  .saved = rows(reinterpret_cast<char*>(t.saved.data()), DType::f32, q_rows,
                                c.heads, 2, c.heads * 2),
                  .segments = segments.data(),
                  .num_segments = c.sequences,
                  .scale = 1 / std::sqrt(static_cast<float>(c.dim))};
  f.saved.stride[1] = 2;
  const auto forward = cpu::attention(isa);
  const double ms = best_ms(forward, f, pool);
  fmt::print("{:<28} {:<10} {:<5} forward {:8.3f} ms {:7.0f} GFLOP/s", c.name, cpu::isa_name(isa),
             dtype_name(dtype), ms, forward.cost(f).flops / ms * 1e-6);
  if (c.queries == c.keys) {
    const AttentionBackwardDesc b{
        .q = f.q,
        .k = f.k,
        .v = f.v,
        .out = f.out,
        .saved = f.saved,
        .dout = rows(t.dout.data(), dtype, q_rows, c.heads, c.dim, c.heads * c.dim),
        .dq = part(t.dqkv, q_rows, 0, c.heads),
        .dk = part(t.dqkv, k_rows, c.heads, c.key_heads),
        .dv = part(t.dqkv, k_rows, c.heads + c.key_heads, c.key_heads),
        .segments = f.segments,
        .num_segments = f.num_segments,
        .scale = f.scale};
    const auto backward = cpu::attention_backward(isa);
    const double ms_b = best_ms(backward, b, pool);
    fmt::print("   backward {:8.3f} ms {:7.0f} GFLOP/s", ms_b,
               backward.cost(b).flops / ms_b * 1e-6);
  }
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  using namespace hone;
  const std::string only = argc > 1 ? argv[1] : "";
  ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : available_threads());
  const Case cases[] = {{"H14 K2 D64, 8 x 256", 14, 2, 64, 8, 256, 256},
                        {"H14 K2 D64, 20 x 200", 14, 2, 64, 20, 200, 200},
                        {"H14 K2 D64, 1 x 4096", 14, 2, 64, 1, 4096, 4096},
                        {"H32 K8 D128, 1 x 2048", 32, 8, 128, 1, 2048, 2048},
                        {"H14 K2 D64, decode 16 x 300", 14, 2, 64, 16, 300, 1},
                        {"H14 K2 D64, decode 1 x 4096", 14, 2, 64, 1, 4096, 1}};
  for (const Case& c : cases) {
    for (cpu::Isa isa : cpu::available_isas()) {
      if (isa < cpu::Isa::avx2 || (!only.empty() && only != cpu::isa_name(isa))) continue;
      run(c, isa, DType::bf16, pool);
      if (isa == cpu::Isa::avx2 || isa == cpu::Isa::avx512) run(c, isa, DType::f32, pool);
    }
  }
}
