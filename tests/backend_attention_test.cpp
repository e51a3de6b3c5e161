// Attention on every instruction path of this machine: rows that don't depend on their company,
// errors against f64, gradients against finite differences, and what must not be touched.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"

namespace hone {
namespace {

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

View view3(void* data, DType dtype, int64_t a, int64_t b, int64_t c, int64_t stride0,
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

std::vector<KeyBlock> contiguous_blocks(int first_row, int kv_len) {
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

std::vector<Isa> fp32_isas() {
  std::vector<Isa> all;
  for (Isa isa : cpu::available_isas()) {
    if (isa != Isa::reference) all.push_back(isa);
  }
  return all;
}

template <class T>
class AttentionTest : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionTest, Types);

// A page table over a cache of its own: the sequence's keys in pages in a shuffled order, every
// other row NaN or infinity.
template <class T>
struct Cache {
  Cache(const Inputs<T>& in, int begin, int len, unsigned seed) {
    const int pages = (len + 63) / 64 + 2;
    Rows<T>* stores[] = {&k, &v};
    const Rows<T>* sources[] = {&in.k, &in.v};
    std::vector<int> order(pages);
    for (int i = 0; i < pages; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    for (int which = 0; which < 2; ++which) {
      Rows<T>& store = *stores[which];
      store = Rows<T>(pages * 64, in.k.heads, sources[which]->dim);
      for (int i = 0; i < pages * 64; ++i)
        for (int h = 0; h < store.heads; ++h)
          for (int d = 0; d < store.dim; ++d)
            store.at(i, h, d) = from_double<T>(d % 2 ? NAN : INFINITY);
      for (int i = 0; i < len; ++i)
        for (int h = 0; h < store.heads; ++h)
          for (int d = 0; d < store.dim; ++d)
            store.at(order[i / 64] * 64 + i % 64, h, d) = sources[which]->at(begin + i, h, d);
    }
    for (int i = 0; i < (len + 63) / 64; ++i) blocks.push_back({.row = order[i] * 64});
  }
  // Rows from `len` on become garbage, as in a page that later tokens have not reached.
  void forget_after(int len) {
    for (int i = len; i < static_cast<int>(blocks.size()) * 64; ++i)
      for (Rows<T>* store : {&k, &v})
        for (int h = 0; h < store->heads; ++h)
          for (int d = 0; d < store->dim; ++d)
            store->at(blocks[i / 64].row + i % 64, h, d) = from_double<T>(d % 2 ? INFINITY : NAN);
  }
  Rows<T> k, v;
  std::vector<KeyBlock> blocks;
};

template <class T>
Rows<T> slice(const Rows<T>& r, int begin, int len) {
  Rows<T> s(len, r.heads, r.dim);
  for (int i = 0; i < len; ++i)
    std::memcpy(&s.at(i, 0, 0), &r.at(begin + i, 0, 0), sizeof(T) * r.heads * r.dim);
  return s;
}

// A row's bits are the same in a whole sequence alone, packed among others, in pieces, and query by
// query over scattered pages.
TYPED_TEST(AttentionTest, RowsAreExact) {
  using T = TypeParam;
  for (Isa isa : cpu::available_isas()) {
    const bool slow = isa <= Isa::scalar;
    for (const int n : slow ? std::vector<int>{1, 65, 130, 1030}
                            : std::vector<int>{1, 63, 64, 65, 200, 1100, 2100}) {
      for (const Shape shape :
           {Shape{14, 2, 64}, Shape{4, 4, 80}, Shape{3, 1, 7}, Shape{4, 2, 48, 24}}) {
        if ((n > 200 && shape.heads == 14) || (n > 1100 && shape.heads == 4)) continue;
        SCOPED_TRACE(std::string(cpu::isa_name(isa)) + " n " + std::to_string(n) + " heads " +
                     std::to_string(shape.heads));
        const float scale = 1 / std::sqrt(static_cast<float>(shape.dim));
        const int before = 37, after = 70;
        Inputs<T> packed(before + n + after, shape, 7 + n, 1.5);
        const auto b0 = contiguous_blocks(0, before), b1 = contiguous_blocks(before, n),
                   b2 = contiguous_blocks(before + n, after);
        const Segment s0{0, before, before, b0.data()}, s1{before, n, n, b1.data()},
            s2{before + n, after, after, b2.data()};
        const Rows<T> alone = attend(isa, packed.q, packed.k, packed.v, {s1}, scale, 1, true).out;
        EXPECT_TRUE(alone.guards_intact());
        const auto expect_rows = [&](const Rows<T>& got, int got_at, int want_at, int count,
                                     const char* what) {
          for (int i = 0; i < count; ++i) {
            ASSERT_TRUE(got.row_equal(got_at + i, alone, before + want_at + i))
                << what << ": query " << want_at + i;
          }
        };
        const Rows<T> both =
            attend(isa, packed.q, packed.k, packed.v, {s0, s1, s2}, scale, 2, false).out;
        expect_rows(both, before, 0, n, "packed, two threads");
        const Rows<T> other_way =
            attend(isa, packed.q, packed.k, packed.v, {s2, s1}, scale, 1, false).out;
        expect_rows(other_way, before, 0, n, "packed otherwise");
        // In pieces over pages, the later keys not yet written.
        Cache<T> cache(packed, before, n, 3);
        for (int begin = 0, step = 1; begin < n; begin += step, step = step * 3 + 5) {
          const int len = std::min(step, n - begin);
          Cache<T> now = cache;
          now.forget_after(begin + len);
          Rows<T> q = slice(packed.q, before + begin, len);
          const Rows<T> got = attend(isa, q, now.k, now.v,
                                     {{0, len, begin + len, now.blocks.data()}}, scale, 2, false)
                                  .out;
          EXPECT_TRUE(got.guards_intact());
          expect_rows(got, 0, begin, len, "piece over pages");
        }
        // Query by query, several at a time as segments of one call (a batch of decoding
        // sequences).
        std::vector<int> queries;
        for (int i = 0; i < n; i += (n > 300 ? 41 : slow ? 9 : 1)) queries.push_back(i);
        for (int i : {n - 1, 63, 64, 1023, 1024, 2047, 2048}) {
          if (i < n) queries.push_back(i);
        }
        for (size_t at = 0; at < queries.size(); at += 16) {
          const int count = static_cast<int>(std::min<size_t>(16, queries.size() - at));
          Rows<T> q(count, shape.heads, shape.dim);
          std::vector<Segment> segments;
          for (int i = 0; i < count; ++i) {
            const int query = queries[at + i];
            std::memcpy(&q.at(i, 0, 0), &packed.q.at(before + query, 0, 0),
                        sizeof(T) * shape.heads * shape.dim);
            segments.push_back({i, 1, query + 1, cache.blocks.data()});
          }
          const Rows<T> got =
              attend(isa, q, cache.k, cache.v, segments, scale, 1 + at / 16 % 2, false).out;
          for (int i = 0; i < count; ++i) expect_rows(got, i, queries[at + i], 1, "one query");
        }
      }
    }
  }
}

// The block that holds the end of a shared prefix: keys of one sequence through {row, split,
// row_after}.
TYPED_TEST(AttentionTest, SplitBlocksAreTheSameSequence) {
  using T = TypeParam;
  const Shape shape{6, 2, 32};
  for (Isa isa : cpu::available_isas()) {
    for (const int prefix : {1, 40, 64, 100}) {
      const int n = prefix + 75;
      Inputs<T> in(n + 50, shape, 5);
      const auto whole = contiguous_blocks(0, n);
      const Rows<T> want =
          attend(isa, in.q, in.k, in.v, {{0, n, n, whole.data()}}, 0.2f, 1, false).out;
      // The same keys with 50 foreign rows between prefix and continuation.
      Inputs<T> moved(n + 50, shape, 6);
      for (int i = 0; i < n; ++i) {
        const int to = i < prefix ? i : i + 50;
        std::memcpy(&moved.q.at(to, 0, 0), &in.q.at(i, 0, 0), sizeof(T) * shape.heads * shape.dim);
        std::memcpy(&moved.k.at(to, 0, 0), &in.k.at(i, 0, 0),
                    sizeof(T) * shape.key_heads * shape.dim);
        std::memcpy(&moved.v.at(to, 0, 0), &in.v.at(i, 0, 0),
                    sizeof(T) * shape.key_heads * shape.dim);
      }
      std::vector<KeyBlock> blocks;
      for (int i = 0; i < n; i += 64) {
        if (i + 64 <= prefix) {
          blocks.push_back({.row = i});
        } else if (i >= prefix) {
          blocks.push_back({.row = i + 50});
        } else {
          blocks.push_back({.row = i, .split = prefix - i, .row_after = prefix + 50});
        }
      }
      const Rows<T> got = attend(isa, moved.q, moved.k, moved.v,
                                 {{prefix + 50, n - prefix, n, blocks.data()}}, 0.2f, 2, false)
                              .out;
      for (int i = prefix; i < n; ++i)
        ASSERT_TRUE(got.row_equal(i + 50, want, i)) << cpu::isa_name(isa) << " query " << i;
    }
  }
}

// A masked key is as an absent one, whatever its value: a later NaN, infinity or huge number
// changes no bit of an earlier row, and nothing crosses segments.
TYPED_TEST(AttentionTest, LaterKeysDoNotReachBack) {
  using T = TypeParam;
  const Shape shape{4, 2, 48};
  const int n = 150, poison = 90;
  for (Isa isa : cpu::available_isas()) {
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY), -3e38}) {
      SCOPED_TRACE(std::string(cpu::isa_name(isa)) + " " + std::to_string(bad));
      Inputs<T> in(n + 40, shape, 11);
      const auto b0 = contiguous_blocks(0, n), b1 = contiguous_blocks(n, 40);
      const std::vector<Segment> segments{{0, n, n, b0.data()}, {n, 40, 40, b1.data()}};
      Outputs<T> want = attend(isa, in.q, in.k, in.v, segments, 0.1f, 1, true);
      for (int h = 0; h < shape.key_heads; ++h)
        for (int d = 0; d < shape.dim; ++d)
          in.k.at(poison, h, d) = in.v.at(poison, h, d) = from_double<T>(bad);
      Outputs<T> got = attend(isa, in.q, in.k, in.v, segments, 0.1f, 1, true);
      for (int i = 0; i < n + 40; ++i) {
        if (i < poison || i >= n) {
          ASSERT_TRUE(got.out.row_equal(i, want.out, i)) << "query " << i;
        }
      }
      Rows<T> dout(n + 40, shape.heads, shape.values());
      std::mt19937 rng(3);
      dout.randomize(rng);
      Inputs<T> clean(n + 40, shape, 11);
      Gradients<T> a, b;
      ASSERT_TRUE(attend_backward(isa, clean, want, dout, segments, 0.1f, 1, a).ok());
      ASSERT_TRUE(attend_backward(isa, in, got, dout, segments, 0.1f, 2, b).ok());
      for (int i = n; i < n + 40; ++i) {
        EXPECT_TRUE(a.dq.row_equal(i, b.dq, i) && a.dk.row_equal(i, b.dk, i) &&
                    a.dv.row_equal(i, b.dv, i))
            << "gradients of row " << i;
      }
    }
  }
}

// Forward and backward against f64. Rule: at most twice the error of the naive implementation in
// the same precision, and half a unit in the last place of the result's type (relative to the
// tensor's maximum). Measured: at most 1.21 (fp32, scalar), 1.03 (fp32, vectors) and 0.88 (bf16) of
// the naive error and half that rounding.
TYPED_TEST(AttentionTest, ErrorsAreThoseOfThePrecision) {
  using T = TypeParam;
  double worst[6] = {};
  for (const Shape shape :
       {Shape{14, 2, 64}, Shape{4, 4, 128}, Shape{6, 3, 80}, Shape{5, 1, 1}, Shape{2, 1, 256},
        Shape{9, 1, 33}, Shape{4, 4, 192, 128}, Shape{3, 1, 40, 70}, Shape{2, 1, 576, 512}}) {
    const int lens[] = {1, 64, 129, 200};
    int tokens = 3;
    std::vector<std::vector<KeyBlock>> blocks;
    std::vector<Segment> segments;
    for (int len : lens) {
      blocks.push_back(contiguous_blocks(tokens, len));
      segments.push_back({tokens, len, len, blocks.back().data()});
      tokens += len;
    }
    tokens += 4;  // rows at both ends that no segment touches
    Inputs<T> in(tokens, shape, 100 + shape.dim);
    Rows<T> dout(tokens, shape.heads, shape.values());
    std::mt19937 rng(9);
    dout.randomize(rng);
    const float scale = 1 / std::sqrt(static_cast<float>(shape.dim));
    Inputs<double> in64 = in.template to<double>();
    Rows<double> dout64 = dout.template to<double>();
    Outputs<double> true_out =
        attend(Isa::reference, in64.q, in64.k, in64.v, segments, scale, 2, true);
    Gradients<double> true_g;
    ASSERT_TRUE(
        attend_backward(Isa::reference, in64, true_out, dout64, segments, scale, 2, true_g).ok());
    Rows<T> naive_out;
    Gradients<T> naive_g;
    naive(in, dout, segments, scale, naive_out, naive_g);
    const auto cut = [&](const auto& r) { return slice(r, 3, tokens - 7); };
    for (Isa isa : cpu::available_isas()) {
      SCOPED_TRACE(std::string(cpu::isa_name(isa)) + " dim " + std::to_string(shape.dim));
      Outputs<T> out = attend(isa, in.q, in.k, in.v, segments, scale, 2, true);
      Gradients<T> g;
      ASSERT_TRUE(attend_backward(isa, in, out, dout, segments, scale, 2, g).ok());
      const struct {
        const char* name;
        const Rows<T>&got, &naive;
        const Rows<double>& want;
      } checks[] = {{"out", out.out, naive_out, true_out.out},
                    {"dq", g.dq, naive_g.dq, true_g.dq},
                    {"dk", g.dk, naive_g.dk, true_g.dk},
                    {"dv", g.dv, naive_g.dv, true_g.dv}};
      for (const auto& c : checks) {
        const double mine = error(cut(c.got), cut(c.want)),
                     theirs = error(cut(c.naive), cut(c.want));
        EXPECT_LE(mine, 2 * theirs + kRounding<T>) << c.name << ": naive " << theirs;
        worst[static_cast<int>(isa)] =
            std::max(worst[static_cast<int>(isa)], mine / (theirs + kRounding<T> / 2));
        EXPECT_TRUE(c.got.guards_intact()) << c.name;
        for (int i : {0, 1, 2, tokens - 4, tokens - 1}) {
          EXPECT_EQ(to_double(c.got.at(i, 0, 0)), Rows<T>::kGuard)
              << c.name << ": row " << i << " belongs to no segment";
        }
      }
      // The same bits with another number of threads.
      Gradients<T> g1;
      ASSERT_TRUE(attend_backward(isa, in, out, dout, segments, scale, 1, g1).ok());
      EXPECT_EQ(std::memcmp(g.dq.data.data(), g1.dq.data.data(), g.dq.data.size() * sizeof(T)), 0);
      EXPECT_EQ(std::memcmp(g.dk.data.data(), g1.dk.data.data(), g.dk.data.size() * sizeof(T)), 0);
      EXPECT_EQ(std::memcmp(g.dv.data.data(), g1.dv.data.data(), g.dv.data.size() * sizeof(T)), 0);
    }
  }
  for (Isa isa : cpu::available_isas()) {
    std::printf("%s: at most %.2f of (naive + half the rounding)\n",
                std::string(cpu::isa_name(isa)).c_str(), worst[static_cast<int>(isa)]);
  }
}

// One long segment: several chunks, groups of keys and tasks.
TYPED_TEST(AttentionTest, LongSegment) {
  using T = TypeParam;
  const Shape shape{2, 1, 16};
  const int n = 2200;
  Inputs<T> in(n, shape, 21, 2);
  Rows<T> dout(n, shape.heads, shape.dim);
  std::mt19937 rng(9);
  dout.randomize(rng);
  const auto blocks = contiguous_blocks(0, n);
  const std::vector<Segment> segments{{0, n, n, blocks.data()}};
  Inputs<double> in64 = in.template to<double>();
  Rows<double> dout64 = dout.template to<double>();
  Outputs<double> true_out =
      attend(Isa::reference, in64.q, in64.k, in64.v, segments, 0.25f, 2, true);
  Gradients<double> true_g;
  ASSERT_TRUE(
      attend_backward(Isa::reference, in64, true_out, dout64, segments, 0.25f, 2, true_g).ok());
  Rows<T> naive_out;
  Gradients<T> naive_g;
  naive(in, dout, segments, 0.25f, naive_out, naive_g);
  for (Isa isa : fp32_isas()) {
    SCOPED_TRACE(cpu::isa_name(isa));
    Outputs<T> out = attend(isa, in.q, in.k, in.v, segments, 0.25f, 2, true);
    Gradients<T> g;
    ASSERT_TRUE(attend_backward(isa, in, out, dout, segments, 0.25f, 2, g).ok());
    EXPECT_LE(error(out.out, true_out.out), 2 * error(naive_out, true_out.out) + kRounding<T>);
    EXPECT_LE(error(g.dq, true_g.dq), 2 * error(naive_g.dq, true_g.dq) + kRounding<T>);
    EXPECT_LE(error(g.dk, true_g.dk), 2 * error(naive_g.dk, true_g.dk) + kRounding<T>);
    EXPECT_LE(error(g.dv, true_g.dv), 2 * error(naive_g.dv, true_g.dv) + kRounding<T>);
  }
}

// Two continuations of one prefix: gradients of the prefix's keys are the sum over all that read
// them, as of three separate copies.
TYPED_TEST(AttentionTest, SharedPrefixGradients) {
  using T = TypeParam;
  const Shape shape{4, 2, 24};
  const int prefix = 300, len = 45, n = prefix + 2 * len;
  Inputs<T> in(n, shape, 31);
  Rows<T> dout(n, shape.heads, shape.dim);
  std::mt19937 rng(4);
  dout.randomize(rng);
  std::vector<std::vector<KeyBlock>> blocks{contiguous_blocks(0, prefix)};
  std::vector<Segment> segments{{0, prefix, prefix, blocks[0].data()}};
  for (int c = 0; c < 2; ++c) {
    const int begin = prefix + c * len;
    std::vector<KeyBlock> b;
    for (int i = 0; i < prefix + len; i += 64) {
      if (i + 64 <= prefix) {
        b.push_back({.row = i});
      } else if (i >= prefix) {
        b.push_back({.row = begin + i - prefix});
      } else {
        b.push_back({.row = i, .split = prefix - i, .row_after = begin});
      }
    }
    blocks.push_back(b);
  }
  for (int c = 0; c < 2; ++c)
    segments.push_back({prefix + c * len, len, prefix + len, blocks[1 + c].data()});
  Inputs<double> in64 = in.template to<double>();
  Rows<double> dout64 = dout.template to<double>();
  Outputs<double> true_out =
      attend(Isa::reference, in64.q, in64.k, in64.v, segments, 0.2f, 2, true);
  Gradients<double> true_g;
  ASSERT_TRUE(
      attend_backward(Isa::reference, in64, true_out, dout64, segments, 0.2f, 2, true_g).ok());
  Rows<T> naive_out;
  Gradients<T> naive_g;
  naive(in, dout, segments, 0.2f, naive_out, naive_g);
  for (Isa isa : cpu::available_isas()) {
    SCOPED_TRACE(cpu::isa_name(isa));
    Outputs<T> out = attend(isa, in.q, in.k, in.v, segments, 0.2f, 2, true);
    Gradients<T> g, g1;
    ASSERT_TRUE(attend_backward(isa, in, out, dout, segments, 0.2f, 2, g).ok());
    ASSERT_TRUE(attend_backward(isa, in, out, dout, segments, 0.2f, 1, g1).ok());
    EXPECT_EQ(std::memcmp(g.dk.data.data(), g1.dk.data.data(), g.dk.data.size() * sizeof(T)), 0);
    EXPECT_LE(error(g.dq, true_g.dq), 2 * error(naive_g.dq, true_g.dq) + kRounding<T>);
    EXPECT_LE(error(g.dk, true_g.dk), 2 * error(naive_g.dk, true_g.dk) + kRounding<T>);
    EXPECT_LE(error(g.dv, true_g.dv), 2 * error(naive_g.dv, true_g.dv) + kRounding<T>);
    // A key of no segment in the call has nowhere to put its gradient.
    const std::vector<Segment> orphan{segments[1]};
    EXPECT_FALSE(attend_backward(isa, in, out, dout, orphan, 0.2f, 1, g).ok());
  }
}

// The reference's adjoint against central differences in f64. Step h = 1e-5: truncation about h^2
// and cancellation about 1e-16 / h, both near 1e-10.
TEST(AttentionReferenceTest, AdjointIsTheDerivative) {
  const Shape shape{4, 2, 5};
  const int n = 70, prefix = 6;
  Inputs<double> in(n + 9, shape, 41);
  Rows<double> dout(n + 9, shape.heads, shape.dim);
  std::mt19937 rng(4);
  dout.randomize(rng);
  const auto b0 = contiguous_blocks(0, n);
  const std::vector<KeyBlock> b1{{.row = 0, .split = prefix, .row_after = n}};
  const std::vector<Segment> segments{{0, n, n, b0.data()}, {n, 9, prefix + 9, b1.data()}};
  Outputs<double> out = attend(Isa::reference, in.q, in.k, in.v, segments, 0.5f, 1, true);
  Gradients<double> g;
  ASSERT_TRUE(attend_backward(Isa::reference, in, out, dout, segments, 0.5f, 1, g).ok());
  const auto loss = [&] {
    const Rows<double> o = attend(Isa::reference, in.q, in.k, in.v, segments, 0.5f, 1, false).out;
    double sum = 0;
    for (int i = 0; i < n + 9; ++i)
      for (int h = 0; h < shape.heads; ++h)
        for (int d = 0; d < shape.dim; ++d) sum += o.at(i, h, d) * dout.at(i, h, d);
    return sum;
  };
  double worst = 0;
  std::pair<Rows<double>*, Rows<double>*> parts[] = {
      {&in.q, &g.dq}, {&in.k, &g.dk}, {&in.v, &g.dv}};
  for (auto [x, dx] : parts)
    for (int i = 0; i < n + 9; i += 3)
      for (int h = 0; h < x->heads; ++h) {
        double& value = x->at(i, h, i % shape.dim);
        const double was = value, step = 1e-5;
        value = was + step;
        const double up = loss();
        value = was - step;
        const double down = loss();
        value = was;
        worst = std::max(worst, std::abs((up - down) / (2 * step) - dx->at(i, h, i % shape.dim)));
      }
  EXPECT_LT(worst, 1e-8);  // measured 3e-10
}

// Bad descriptors are refused, not executed.
TEST(AttentionReferenceTest, ContractsAreChecked) {
  Inputs<float> in(10, {4, 2, 8}, 1);
  Rows<float> out(10, 4, 8);
  const auto blocks = contiguous_blocks(0, 10);
  AttentionSegment s{0, 10, 10};
  AttentionDesc d{.q = in.q.view(),
                  .k = in.k.view(),
                  .v = in.v.view(),
                  .out = out.view(),
                  .blocks = blocks.data(),
                  .segments = &s,
                  .num_segments = 1};
  for (Isa isa : cpu::available_isas()) {
    const Kernel<AttentionDesc> kernel = cpu::attention(isa);
    EXPECT_TRUE(kernel.row_exact);
    EXPECT_TRUE(call(kernel, d, 1).ok());
    EXPECT_EQ(kernel.cost(d).flops, 55 * 4 * 8 * 4);
    s.q_len = 11;
    EXPECT_FALSE(call(kernel, d, 1).ok());
    s.q_len = 10, s.kv_len = 9;
    EXPECT_FALSE(call(kernel, d, 1).ok());
    s.kv_len = 11;
    EXPECT_FALSE(call(kernel, d, 1).ok()) << "a key row outside k";
    s.kv_len = 10;
    AttentionDesc wide = d;
    wide.v.shape[2] = 4;
    EXPECT_FALSE(call(kernel, wide, 1).ok()) << "v and out of two sizes";
    AttentionDesc three = d;
    three.q.shape[1] = three.out.shape[1] = 3;
    EXPECT_FALSE(call(kernel, three, 1).ok());
    if (isa != Isa::reference) {
      Inputs<double> in64 = in.to<double>();
      Rows<double> out64(10, 4, 8);
      const AttentionDesc d64{.q = in64.q.view(),
                              .k = in64.k.view(),
                              .v = in64.v.view(),
                              .out = out64.view(),
                              .blocks = blocks.data(),
                              .segments = &s,
                              .num_segments = 1};
      EXPECT_FALSE(call(kernel, d64, 1).ok());
    }
  }
}

}  // namespace
}  // namespace hone
