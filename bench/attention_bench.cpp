// Time of attention and its backward pass by instruction path, on random data in a fused qkv
// buffer. Usage: attention_bench [path] [threads]. GFLOP/s count the pairs of query and key that
// see each other: 4 D a pair and head forward, 10 D backward. Decoding: all layers of a pass in
// turn, keys and values on pages as the cache has them, more of them than caches hold; GB/s count
// keys and values once.
#include <fmt/format.h>
#include <sys/mman.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "backend/desc/attention.h"

namespace hone {
namespace {

struct Case {
  const char* name;
  int heads, key_heads, dim;
  int sequences, keys;  // of each sequence
};

struct Decode {
  const char* name;
  int heads, key_heads, dim, layers;
  int sequences, keys;  // of each sequence
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

// The best time of once(ctx), which runs a kernel that wants so much scratch.
template <class Fn>
double best_ms(ThreadPool& pool, const DeviceProps& props, size_t scratch_bytes, Fn once) {
  void* scratch = std::aligned_alloc(64, (scratch_bytes + 63) / 64 * 64);
  const KernelCtx ctx{
      .pool = &pool, .scratch = scratch, .scratch_bytes = scratch_bytes, .props = &props};
  double best = 1e30, spent = 0;
  for (int i = 0; i < 3 || (spent < 500 && i < 200); ++i) {
    const auto start = std::chrono::steady_clock::now();
    once(ctx);
    const double ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    best = std::min(best, ms);
    spent += ms;
  }
  std::free(scratch);
  return best;
}

void must(const Status& status) {
  if (!status.ok()) runtime_error("bench", "{}", status.error);
}

template <class Desc>
double best_ms(const Kernel<Desc>& kernel, const Desc& d, ThreadPool& pool) {
  const DeviceProps props = cpu::device_props(pool.size());
  return best_ms(pool, props, kernel.scratch_bytes(props, d),
                 [&](const KernelCtx& ctx) { must(kernel.run(ctx, d)); });
}

void run(const Case& c, cpu::Isa isa, DType dtype, ThreadPool& pool) {
  std::mt19937 rng(1);
  const int64_t tokens = int64_t{c.sequences} * c.keys;
  const int64_t width = int64_t{c.heads + 2 * c.key_heads} * c.dim;
  const size_t e = dtype_size(dtype);
  Tensors t;
  fill(t.qkv, static_cast<size_t>(tokens * width), dtype, rng);
  fill(t.dout, static_cast<size_t>(tokens * c.heads * c.dim), dtype, rng);
  t.out.resize(t.dout.size());
  t.dqkv.resize(t.qkv.size());
  t.saved.resize(static_cast<size_t>(tokens * c.heads * 2));
  std::vector<KeyBlock> blocks;
  std::vector<AttentionSegment> segments;
  for (int s = 0; s < c.sequences; ++s) {
    segments.push_back({s * c.keys, c.keys, c.keys, static_cast<int32_t>(blocks.size())});
    for (int i = 0; i < c.keys; i += kKeyBlock) blocks.push_back({.row = s * c.keys + i});
  }
  const auto part = [&](std::vector<char>& buffer, int64_t n, int head, int count) {
    return rows(buffer.data() + head * c.dim * e, dtype, n, count, c.dim, width);
  };
  AttentionDesc f{.q = part(t.qkv, tokens, 0, c.heads),
                  .k = part(t.qkv, tokens, c.heads, c.key_heads),
                  .v = part(t.qkv, tokens, c.heads + c.key_heads, c.key_heads),
                  .out = rows(t.out.data(), dtype, tokens, c.heads, c.dim, c.heads * c.dim),
                  .saved = rows(reinterpret_cast<char*>(t.saved.data()), DType::f32, tokens,
                                c.heads, 2, c.heads * 2),
                  .blocks = blocks.data(),
                  .segments = segments.data(),
                  .num_segments = c.sequences,
                  .scale = 1 / std::sqrt(static_cast<float>(c.dim))};
  f.saved.stride[1] = 2;
  const auto forward = cpu::attention(isa);
  const double ms = best_ms(forward, f, pool);
  fmt::print("{:<28} {:<10} {:<5} forward {:8.3f} ms {:7.0f} GFLOP/s", c.name, cpu::isa_name(isa),
             dtype_name(dtype), ms, forward.cost(f).flops / ms * 1e-6);
  const AttentionBackwardDesc b{
      .q = f.q,
      .k = f.k,
      .v = f.v,
      .out = f.out,
      .saved = f.saved,
      .dout = rows(t.dout.data(), dtype, tokens, c.heads, c.dim, c.heads * c.dim),
      .dq = part(t.dqkv, tokens, 0, c.heads),
      .dk = part(t.dqkv, tokens, c.heads, c.key_heads),
      .dv = part(t.dqkv, tokens, c.heads + c.key_heads, c.key_heads),
      .blocks = f.blocks,
      .segments = f.segments,
      .num_segments = f.num_segments,
      .scale = f.scale};
  const auto backward = cpu::attention_backward(isa);
  const double ms_b = best_ms(backward, b, pool);
  fmt::print("   backward {:8.3f} ms {:7.0f} GFLOP/s", ms_b, backward.cost(b).flops / ms_b * 1e-6);
  fmt::print("\n");
  std::fflush(stdout);
}

void decode(const Decode& c, cpu::Isa isa, DType dtype, ThreadPool& pool) {
  std::mt19937 rng(1);
  const int64_t pages = int64_t{c.sequences} * ((c.keys + kKeyBlock - 1) / kKeyBlock);
  const int64_t side = pages * c.key_heads * kKeyBlock * c.dim, heads = int64_t{c.heads} * c.dim;
  const size_t element = dtype_size(dtype);
  const size_t bytes = static_cast<size_t>(2 * c.layers * side) * element, huge = 2 << 20;
  std::vector<char> some, q, out(static_cast<size_t>(c.sequences * heads) * element);
  fill(some, 1 << 16, dtype, rng);
  fill(q, static_cast<size_t>(c.sequences * heads), dtype, rng);
  char* cache = static_cast<char*>(std::aligned_alloc(huge, (bytes + huge - 1) / huge * huge));
  madvise(cache, bytes, MADV_HUGEPAGE);
  for (size_t i = 0; i < bytes; i += some.size())
    std::memcpy(cache + i, some.data(), std::min(some.size(), bytes - i));
  // as a running batch takes its pages: by turns
  std::vector<KeyBlock> blocks(static_cast<size_t>(pages));
  std::vector<AttentionSegment> segments;
  const int each = static_cast<int>(pages) / c.sequences;
  for (int s = 0; s < c.sequences; ++s) {
    for (int b = 0; b < each; ++b)
      blocks[static_cast<size_t>(s * each + b)].row =
          (b * c.sequences + s) * c.key_heads * kKeyBlock;
    segments.push_back({s, 1, c.keys, s * each});
  }
  const auto side_view = [&](int layer, int which) {
    View v = rows(cache + static_cast<size_t>((2 * layer + which) * side) * element, dtype,
                  (pages * c.key_heads - (c.key_heads - 1)) * kKeyBlock, c.key_heads, c.dim, c.dim);
    v.stride[1] = int64_t{kKeyBlock} * c.dim;
    return v;
  };
  const auto forward = cpu::attention(isa);
  const DeviceProps props = cpu::device_props(pool.size());
  AttentionDesc d{.q = rows(q.data(), dtype, c.sequences, c.heads, c.dim, heads),
                  .k = side_view(0, 0),
                  .v = side_view(0, 1),
                  .out = rows(out.data(), dtype, c.sequences, c.heads, c.dim, heads),
                  .blocks = blocks.data(),
                  .segments = segments.data(),
                  .num_segments = c.sequences,
                  .scale = 1 / std::sqrt(static_cast<float>(c.dim))};
  const double best =
      best_ms(pool, props, forward.scratch_bytes(props, d), [&](const KernelCtx& ctx) {
        for (int layer = 0; layer < c.layers; ++layer) {
          d.k = side_view(layer, 0), d.v = side_view(layer, 1);
          must(forward.run(ctx, d));
        }
      });
  const double read =
      2.0 * c.layers * c.sequences * c.keys * c.key_heads * c.dim * static_cast<double>(element);
  fmt::print("{:<28} {:<10} {:<5} a pass  {:8.2f} ms {:7.1f} GB/s\n", c.name, cpu::isa_name(isa),
             dtype_name(dtype), best, read / best * 1e-6);
  std::fflush(stdout);
  std::free(cache);
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  using namespace hone;
  const std::string only = argc > 1 ? argv[1] : "";
  ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : available_threads());
  const Case cases[] = {{"H14 K2 D64, 8 x 256", 14, 2, 64, 8, 256},
                        {"H14 K2 D64, 20 x 200", 14, 2, 64, 20, 200},
                        {"H14 K2 D64, 1 x 4096", 14, 2, 64, 1, 4096},
                        {"H32 K8 D128, 1 x 2048", 32, 8, 128, 1, 2048}};
  const Decode decodes[] = {{"H14 K2 D64, decode 16 x 200", 14, 2, 64, 24, 16, 200},
                            {"H14 K2 D64, decode 16 x 1000", 14, 2, 64, 24, 16, 1000},
                            {"H14 K2 D64, decode 16 x 3000", 14, 2, 64, 24, 16, 3000},
                            {"H14 K2 D64, decode 1 x 4096", 14, 2, 64, 24, 1, 4096},
                            {"H32 K8 D128, decode 16 x 1000", 32, 8, 128, 16, 16, 1000}};
  const auto on_paths = [&](auto run_one) {
    for (cpu::Isa isa : cpu::available_isas()) {
      if (isa < cpu::Isa::avx2 || (!only.empty() && only != cpu::isa_name(isa))) continue;
      run_one(isa, DType::bf16);
      if (isa == cpu::Isa::avx2 || isa == cpu::Isa::avx512) run_one(isa, DType::f32);
    }
  };
  for (const Case& c : cases)
    on_paths([&](cpu::Isa isa, DType dtype) { run(c, isa, dtype, pool); });
  for (const Decode& c : decodes)
    on_paths([&](cpu::Isa isa, DType dtype) { decode(c, isa, dtype, pool); });
}
