// Attention and its gradients on every instruction path of this machine: errors against f64, the
// reference against finite differences.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "support/attention_calls.h"

namespace hone {
namespace {

using namespace attention_test;

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

}  // namespace
}  // namespace hone
