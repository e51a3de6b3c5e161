// Attention on every instruction path of this machine: rows that don't depend on their company,
// what must not reach back, and what must be refused.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "support/attention_calls.h"

namespace hone {
namespace {

using namespace attention_test;

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
