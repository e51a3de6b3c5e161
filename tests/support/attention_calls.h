// Calls of the attention kernels for tests: rows with guards, plans, the usual implementation.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "backend/desc/attention.h"

namespace hone::attention_test {

using cpu::Isa;

template <class T>
constexpr DType kDType = DType::f32;
template <>
constexpr DType kDType<double> = DType::f64;
template <>
constexpr DType kDType<bf16> = DType::bf16;

template <class T>
T from_double(double x) {
  return static_cast<T>(static_cast<std::conditional_t<sizeof(T) == 8, double, float>>(x));
}
template <class T>
double to_double(T x) {
  return static_cast<double>(static_cast<std::conditional_t<sizeof(T) == 8, double, float>>(x));
}

inline View view3(void* data, DType dtype, int64_t a, int64_t b, int64_t c, int64_t stride0,
                  int64_t stride1) {
  View v;
  v.data = data;
  v.dtype = dtype;
  v.rank = 3;
  v.shape[0] = a, v.shape[1] = b, v.shape[2] = c;
  v.stride[0] = stride0, v.stride[1] = stride1, v.stride[2] = 1;
  return v;
}

// Rows [n, heads, dim] in a buffer of wider rows, with guard elements around and between.
template <class T>
struct Rows {
  Rows() = default;
  Rows(int64_t n, int heads, int dim) : n(n), heads(heads), dim(dim), stride(heads * dim + kPad) {
    data.assign(static_cast<size_t>(n * stride + kPad), from_double<T>(kGuard));
  }
  T& at(int64_t i, int64_t h, int64_t d) {
    return data[static_cast<size_t>(kPad + i * stride + h * dim + d)];
  }
  const T& at(int64_t i, int64_t h, int64_t d) const {
    return const_cast<Rows*>(this)->at(i, h, d);
  }
  View view() { return view3(data.data() + kPad, kDType<T>, n, heads, dim, stride, dim); }
  void randomize(std::mt19937& rng, double spread = 1) {
    std::normal_distribution<double> normal(0, spread);
    for (int64_t i = 0; i < n; ++i)
      for (int h = 0; h < heads; ++h)
        for (int d = 0; d < dim; ++d) at(i, h, d) = from_double<T>(normal(rng));
  }
  template <class U>
  Rows<U> to() const {
    Rows<U> r(n, heads, dim);
    for (int64_t i = 0; i < n; ++i)
      for (int h = 0; h < heads; ++h)
        for (int d = 0; d < dim; ++d) r.at(i, h, d) = from_double<U>(to_double(at(i, h, d)));
    return r;
  }
  bool row_equal(int64_t i, const Rows& o, int64_t j) const {
    return std::memcmp(&at(i, 0, 0), &o.at(j, 0, 0), sizeof(T) * heads * dim) == 0;
  }
  bool guards_intact() const {
    const T guard = from_double<T>(kGuard);
    for (size_t i = 0; i < data.size(); ++i) {
      const int64_t column = static_cast<int64_t>(i) % stride;
      if (column < kPad && std::memcmp(&data[i], &guard, sizeof(T)) != 0) return false;
    }
    return true;
  }
  static constexpr int kPad = 5;  // odd, so that rows are aligned to an element only
  static constexpr double kGuard = 1232;
  int64_t n = 0;
  int heads = 0, dim = 0;
  int64_t stride = 0;
  std::vector<T> data;
};

// A kernel call: scratch exactly as announced, with a guard behind it, filled with garbage (NaN
// patterns).
template <class Desc>
Status call(const Kernel<Desc>& kernel, const Desc& desc, int threads) {
  ThreadPool pool(threads);
  DeviceProps props = cpu::device_props(threads);
  const size_t bytes = kernel.scratch_bytes ? kernel.scratch_bytes(props, desc) : 0;
  std::vector<char> buffer(bytes + 128, static_cast<char>(0xff));
  void* scratch = buffer.data();
  size_t space = buffer.size();
  std::align(64, bytes + 1, scratch, space);
  KernelCtx ctx{.pool = &pool, .scratch = scratch, .scratch_bytes = bytes, .props = &props};
  const Status status = kernel.run(ctx, desc);
  for (char* p = static_cast<char*>(scratch) + bytes; p < buffer.data() + buffer.size(); ++p) {
    EXPECT_EQ(*p, static_cast<char>(0xff)) << "wrote behind the scratch";
  }
  return status;
}

inline std::vector<KeyBlock> contiguous_blocks(int first_row, int kv_len) {
  std::vector<KeyBlock> blocks;
  for (int i = 0; i < kv_len; i += kKeyBlock) blocks.push_back({.row = first_row + i});
  return blocks;
}

// A segment with its own blocks.
struct Segment {
  int32_t q_begin = 0, q_len = 0, kv_len = 0;
  const KeyBlock* blocks = nullptr;
};
// The same as kernels take them: all blocks in one table.
struct Plan {
  explicit Plan(const std::vector<Segment>& from) {
    for (const Segment& s : from) {
      segments.push_back({s.q_begin, s.q_len, s.kv_len, static_cast<int32_t>(blocks.size())});
      blocks.insert(blocks.end(), s.blocks, s.blocks + (s.kv_len + kKeyBlock - 1) / kKeyBlock);
    }
  }
  std::vector<KeyBlock> blocks;
  std::vector<AttentionSegment> segments;
};

struct Shape {
  int heads, key_heads, dim, value_dim = 0;  // value_dim 0: dim
  int values() const { return value_dim == 0 ? dim : value_dim; }
};

template <class T>
struct Inputs {
  Inputs(int64_t tokens, Shape s, unsigned seed, double spread = 1)
      : q(tokens, s.heads, s.dim),
        k(tokens, s.key_heads, s.dim),
        v(tokens, s.key_heads, s.values()) {
    std::mt19937 rng(seed);
    q.randomize(rng, spread), k.randomize(rng, spread), v.randomize(rng);
  }
  Inputs() = default;
  template <class U>
  Inputs<U> to() const {
    Inputs<U> r;
    r.q = q.template to<U>(), r.k = k.template to<U>(), r.v = v.template to<U>();
    return r;
  }
  Rows<T> q, k, v;
};

template <class T>
struct Outputs {
  Rows<T> out;
  std::vector<std::conditional_t<sizeof(T) == 8, double, float>> saved;
  View saved_view() {
    return view3(saved.data(), sizeof(T) == 8 ? DType::f64 : DType::f32, out.n, out.heads, 2,
                 out.heads * 2, 2);
  }
};

template <class T>
Outputs<T> attend(Isa isa, Rows<T>& q, Rows<T>& k, Rows<T>& v, const std::vector<Segment>& segments,
                  float scale, int threads, bool save) {
  Outputs<T> r{Rows<T>(q.n, q.heads, v.dim), {}};
  const Plan plan(segments);
  AttentionDesc d{.q = q.view(),
                  .k = k.view(),
                  .v = v.view(),
                  .out = r.out.view(),
                  .blocks = plan.blocks.data(),
                  .segments = plan.segments.data(),
                  .num_segments = static_cast<int>(plan.segments.size()),
                  .scale = scale};
  const Kernel<AttentionDesc> kernel = cpu::attention(isa);
  if (save) {
    const SavedSpec spec = kernel.saved(cpu::device_props(threads), d);
    EXPECT_EQ(spec.count, 1);
    EXPECT_EQ(spec.tensor[0].shape[2], 2);
    r.saved.assign(static_cast<size_t>(q.n * q.heads * 2), 0);
    d.saved = r.saved_view();
  }
  const Status status = call(kernel, d, threads);
  EXPECT_TRUE(status.ok()) << status.error;
  return r;
}

template <class T>
struct Gradients {
  Rows<T> dq, dk, dv;
};

template <class T>
Status attend_backward(Isa isa, Inputs<T>& in, Outputs<T>& fwd, Rows<T>& dout,
                       const std::vector<Segment>& segments, float scale, int threads,
                       Gradients<T>& g) {
  g.dq = Rows<T>(in.q.n, in.q.heads, in.q.dim);
  g.dk = Rows<T>(in.k.n, in.k.heads, in.k.dim);
  g.dv = Rows<T>(in.v.n, in.v.heads, in.v.dim);
  const Plan plan(segments);
  AttentionBackwardDesc d{.q = in.q.view(),
                          .k = in.k.view(),
                          .v = in.v.view(),
                          .out = fwd.out.view(),
                          .saved = fwd.saved_view(),
                          .dout = dout.view(),
                          .dq = g.dq.view(),
                          .dk = g.dk.view(),
                          .dv = g.dv.view(),
                          .blocks = plan.blocks.data(),
                          .segments = plan.segments.data(),
                          .num_segments = static_cast<int>(plan.segments.size()),
                          .scale = scale};
  return call(cpu::attention_backward(isa), d, threads);
}

// max |a - b| / max |b| over all elements.
template <class T>
double error(const Rows<T>& a, const Rows<double>& b) {
  double diff = 0, size = 0;
  for (int64_t i = 0; i < b.n; ++i)
    for (int h = 0; h < b.heads; ++h)
      for (int d = 0; d < b.dim; ++d) {
        const double e = std::abs(to_double(a.at(i, h, d)) - b.at(i, h, d));
        diff = e <= diff ? diff : e;  // a NaN stays
        size = std::max(size, std::abs(b.at(i, h, d)));
      }
  return diff / size;
}

template <class T>
constexpr double kRounding = std::numeric_limits<T>::epsilon() / 2;
template <>
constexpr double kRounding<bf16> = 1.0 / 256;

// The usual implementation in fp32: whole rows of scores, no blocks; probabilities and their
// gradients rounded to T for products.
template <class T>
void naive(const Inputs<T>& in, const Rows<T>& dout, const std::vector<Segment>& segments,
           float scale, Rows<T>& out, Gradients<T>& g) {
  const int group = in.q.heads / in.k.heads, dim = in.q.dim, value_dim = in.v.dim;
  const auto f = [](T x) { return static_cast<float>(x); };
  out = Rows<T>(in.q.n, in.q.heads, value_dim);
  Rows<float> dq(in.q.n, in.q.heads, dim), dk(in.k.n, in.k.heads, dim),
      dv(in.v.n, in.v.heads, value_dim);
  for (auto* r : {&dq, &dk, &dv}) std::fill(r->data.begin(), r->data.end(), 0.f);
  for (const Segment& s : segments)
    for (int h = 0; h < in.q.heads; ++h)
      for (int i = 0; i < s.q_len; ++i) {
        const int n = s.kv_len - s.q_len + i + 1, t = s.q_begin + i;
        const auto row = [&](int j) {
          const KeyBlock& b = s.blocks[j / 64];
          return j % 64 < b.split ? b.row + j % 64 : b.row_after + j % 64 - b.split;
        };
        std::vector<float> p(n);
        float max = -INFINITY, sum = 0;
        for (int j = 0; j < n; ++j) {
          float x = 0;
          for (int d = 0; d < dim; ++d) x += f(in.q.at(t, h, d)) * f(in.k.at(row(j), h / group, d));
          p[j] = x * scale;
          max = std::max(max, p[j]);
        }
        for (float& x : p) sum += x = std::exp(x - max);
        std::vector<float> o(value_dim, 0.f);
        float delta = 0;
        for (int j = 0; j < n; ++j) {
          p[j] /= sum;
          for (int d = 0; d < value_dim; ++d) o[d] += f(T(p[j])) * f(in.v.at(row(j), h / group, d));
        }
        for (int d = 0; d < value_dim; ++d) {
          out.at(t, h, d) = T(o[d]);
          delta += f(out.at(t, h, d)) * f(dout.at(t, h, d));
        }
        for (int j = 0; j < n; ++j) {
          float dp = 0;
          for (int d = 0; d < value_dim; ++d)
            dp += f(dout.at(t, h, d)) * f(in.v.at(row(j), h / group, d));
          const float ds = f(T(p[j] * (dp - delta)));
          for (int d = 0; d < dim; ++d) {
            dq.at(t, h, d) += ds * f(in.k.at(row(j), h / group, d)) * scale;
            dk.at(row(j), h / group, d) += ds * f(in.q.at(t, h, d)) * scale;
          }
          for (int d = 0; d < value_dim; ++d)
            dv.at(row(j), h / group, d) += f(T(p[j])) * f(dout.at(t, h, d));
        }
      }
  g.dq = dq.to<T>(), g.dk = dk.to<T>(), g.dv = dv.to<T>();
}

template <class T>
Rows<T> slice(const Rows<T>& r, int begin, int len) {
  Rows<T> s(len, r.heads, r.dim);
  for (int i = 0; i < len; ++i)
    std::memcpy(&s.at(i, 0, 0), &r.at(begin + i, 0, 0), sizeof(T) * r.heads * r.dim);
  return s;
}

}  // namespace hone::attention_test
