// The output head on every path: accuracy, adjoints, exact rows, outputs that do not influence each
// other. Legend: R labelled rows, D hidden, V vocabulary.
#include "backend/desc/gemm.h"
#include "backend/desc/head.h"
#include "support/kernel_harness.h"

namespace hone::test {
namespace {

using cpu::Isa;

// More than one chunk of the vocabulary, the last one ragged; later words have larger logits, so
// that the running maximum grows.
constexpr int64_t kVocab = 4 * 1024 + 77;

std::vector<double> weight_values(int64_t v, int64_t d) {
  auto w = numbers(2, v * d);
  for (int64_t i = 0; i < v * d; ++i) {
    w[static_cast<size_t>(i)] *= 0.5 + static_cast<double>(i / d) / static_cast<double>(v);
  }
  return w;
}
std::vector<double> target_values(int64_t r, int64_t v) {
  std::vector<double> t;
  for (int64_t i = 0; i < r; ++i) t.push_back(static_cast<double>((i * 7919 + v - 1) % v));
  return t;
}
std::vector<double> temperatures(int64_t r) {
  std::vector<double> t;
  for (int64_t i = 0; i < r; ++i)
    t.push_back(static_cast<double>(0.5f + 0.1f * static_cast<float>(i % 8)));
  return t;
}

// Which outputs a call asks for.
struct Ask {
  bool entropy = true, saved = true, logits = true, dx = true;
};

Op head_op(int64_t r, int64_t v, int64_t d, Ask ask = {}) {
  Op op;
  op.in = {{Kind::data, {r, d}, numbers(1, r * d, 3)},
           {Kind::data, {v, d}, weight_values(v, d), false},
           {Kind::i32, {r}, target_values(r, v)},
           {Kind::f32, {r}, temperatures(r)},
           {Kind::stat, {r}, numbers(3, r)}};
  op.out = {{Kind::stat, {r}, {}},
            {Kind::stat, {r}, {}},
            {Kind::stat, {r}, {}},
            {Kind::stat, {r, ask.logits ? v : 1}, {}},
            {Kind::data, {r, d}, {}}};
  // Outputs not asked for hold zeros in every run.
  const auto unasked = [&](int i, bool asked) {
    Operand& o = op.out[static_cast<size_t>(i)];
    if (!asked) o.values.assign(static_cast<size_t>(o.shape.size() == 1 ? r : r * o.shape[1]), 0);
  };
  unasked(1, ask.entropy);
  unasked(2, ask.saved);
  unasked(3, ask.logits);
  unasked(4, ask.dx);
  op.run = [=](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    HeadDesc h{.x = in[0].view(),
               .weight = in[1].weight(),
               .targets = in[2].view(),
               .inv_temperature = in[3].view(),
               .logprob = out[0].view()};
    if (ask.entropy) h.entropy = out[1].view();
    if (ask.saved) h.saved = out[2].view();
    if (ask.logits) h.logits = out[3].view();
    if (ask.dx) {
      h.dlogprob = in[4].view();
      h.dx = out[4].view();
    }
    return run_kernel(cpu::head(isa), h, threads);
  };
  return op;
}

// lse and entropy come from the reference, so that the backward pass is tested alone.
Op backward_op(int64_t r, int64_t v, int64_t d, bool entropy) {
  const Op forward = head_op(r, v, d, {.dx = false});
  const auto truth = execute(forward, {});
  std::vector<double> lse, ent;
  for (int64_t i = 0; i < r; ++i) {
    ent.push_back(truth[1].get(i));
    lse.push_back(truth[2].get(i));
  }
  Op op;
  op.in = forward.in;
  op.in.push_back({Kind::stat, {r}, lse});
  op.in.push_back({Kind::stat, {r}, ent});
  op.in.push_back({Kind::stat, {r}, numbers(4, r)});
  op.out = {{Kind::data, {r, d}, {}}, {Kind::stat, {v, d}, numbers(5, v * d, 0.1), false, true}};
  op.run = [=](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    HeadBackwardDesc b{.x = in[0].view(),
                       .weight = in[1].weight(),
                       .targets = in[2].view(),
                       .inv_temperature = in[3].view(),
                       .saved = in[5].view(),
                       .dlogprob = in[4].view(),
                       .dx = out[0].view(),
                       .dweight = out[1].view()};
    if (entropy) {
      b.entropy = in[6].view();
      b.dentropy = in[7].view();
    }
    return run_kernel(cpu::head_backward(isa), b, threads);
  };
  return op;
}

// The plain definition in fp64.
TEST(Head, ReferenceIsLogSoftmax) {
  const int64_t r = 4, v = kVocab, d = 16;
  const Op op = head_op(r, v, d);
  const auto out = execute(op, {});
  for (int64_t i = 0; i < r; ++i) {
    std::vector<double> z;
    const double inv_t = op.in[3].values[static_cast<size_t>(i)];
    double largest = -1e300;
    for (int64_t j = 0; j < v; ++j) {
      double s = 0;
      for (int64_t k = 0; k < d; ++k) {
        s += op.in[0].values[static_cast<size_t>(i * d + k)] *
             op.in[1].values[static_cast<size_t>(j * d + k)];
      }
      EXPECT_NEAR(out[3].get(i * v + j), s, 1e-12);
      z.push_back(inv_t * s);
      largest = std::max(largest, z.back());
    }
    double sum = 0, entropy = 0;
    for (double x : z) sum += std::exp(x - largest);
    const double lse = largest + std::log(sum);
    for (double x : z) entropy -= std::exp(x - lse) * (x - lse);
    const auto target = static_cast<size_t>(op.in[2].values[static_cast<size_t>(i)]);
    EXPECT_NEAR(out[0].get(i), z[target] - lse, 1e-11);
    EXPECT_NEAR(out[1].get(i), entropy, 1e-11);
    EXPECT_NEAR(out[2].get(i), lse, 1e-11);
  }
}

// dx in bf16 holds probabilities rounded to bf16 and its own rounding: two; measured 0.8. In fp32,
// logits of size 30 carry sums of 16 to 33 products and log-probs are their differences: measured
// 19 units of 2^-24.
TEST(Head, Accuracy) {
  check_accuracy(head_op(5, kVocab, 16), 40, 2);
  check_accuracy(head_op(3, 50, 33), 40, 2);
  check_accuracy(backward_op(5, kVocab, 16, true), 40, 2);
  check_accuracy(backward_op(3, 50, 33, false), 40, 2);
}

TEST(Head, RowsAreExact) {
  check_rows(head_op(100, kVocab, 24));
  check_rows(head_op(100, kVocab, 24, {.entropy = false, .logits = false}));
}

// Rows beside the border between blocks of 512 rows.
TEST(Head, RowsAreExactAcrossBlocks) {
  const Op op = head_op(530, 1100, 8);
  for (Isa isa : cpu::available_isas()) {
    const auto all = execute(op, {.isa = isa, .dtype = DType::bf16, .threads = 2});
    const auto some =
        execute(op, {.isa = isa, .dtype = DType::bf16, .row_begin = 505, .row_count = 20});
    for (size_t i = 0; i < all.size(); ++i) {
      const auto a = all[i].packed(), b = some[i].packed();
      EXPECT_EQ(0, std::memcmp(b.data(), a.data() + a.size() / 530 * 505, b.size()))
          << cpu::isa_name(isa) << " output " << i;
    }
  }
}

TEST(Head, OutputsDoNotInfluenceEachOther) {
  const int64_t r = 20;
  for (Isa isa : cpu::available_isas()) {
    for (const DType t : {DType::bf16, DType::f32}) {
      const auto all = execute(head_op(r, kVocab, 24), {.isa = isa, .dtype = t});
      for (int mask = 0; mask < 16; ++mask) {
        const Ask ask{(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0, (mask & 8) != 0};
        const auto some = execute(head_op(r, kVocab, 24, ask), {.isa = isa, .dtype = t});
        const bool asked[] = {true, ask.entropy, ask.saved, ask.logits, ask.dx};
        for (size_t i = 0; i < 5; ++i) {
          if (asked[i]) {
            EXPECT_EQ(all[i].packed(), some[i].packed())
                << describe(isa, t) << " " << mask << " " << i;
          }
        }
      }
    }
  }
}

TEST(Head, LogitsAreThoseOfGemm) {
  const int64_t r = 7, d = 40;
  for (Isa isa : cpu::available_isas()) {
    for (const DType t : {DType::bf16, DType::f32}) {
      const Op op = head_op(r, kVocab, d);
      const auto out = execute(op, {.isa = isa, .dtype = t});
      Array x(t, {r, d}), w(t, {kVocab, d}), y(DType::f32, {r, kVocab});
      x.set_all(op.in[0].values);
      w.set_all(op.in[1].values);
      const WeightView weight = w.weight();
      const GemmDesc g{.x = x.view(), .weights = &weight, .y = y.view()};
      ASSERT_TRUE(run_kernel(cpu::gemm(isa), g).ok());
      EXPECT_EQ(y.packed(), out[3].packed()) << describe(isa, t);
    }
  }
}

TEST(Head, LogitsAloneNeedNoTargets) {
  Array x(DType::f32, {3, 8}), w(DType::f32, {70, 8}), logits(DType::f32, {3, 70}, 2);
  x.set_all(numbers(1, 24));
  w.set_all(numbers(2, 560));
  for (Isa isa : cpu::available_isas()) {
    const HeadDesc d{.x = x.view(), .weight = w.weight(), .logits = logits.view()};
    ASSERT_TRUE(run_kernel(cpu::head(isa), d, 2).ok());
    EXPECT_TRUE(logits.guards_intact());
    double sum = 0;
    for (int64_t k = 0; k < 8; ++k) sum += x.get(8 + k) * w.get(69 * 8 + k);
    EXPECT_NEAR(logits.get(139), sum, 1e-6);
  }
}

TEST(Head, TargetsOutsideTheVocabularyAreRefused) {
  for (const double bad : {-1.0, 50.0}) {
    Op op = head_op(3, 50, 8);
    op.in[2].values[1] = bad;
    for (Isa isa : cpu::available_isas()) {
      Array x(DType::f32, {3, 8}), w(DType::f32, {50, 8}), t(DType::i32, {3}), p(DType::f32, {3});
      x.set_all(numbers(1, 24));
      w.set_all(numbers(2, 400));
      t.set_all(op.in[2].values);
      const HeadDesc d{
          .x = x.view(), .weight = w.weight(), .targets = t.view(), .logprob = p.view()};
      EXPECT_FALSE(run_kernel(cpu::head(isa), d).ok());
    }
  }
}

TEST(Head, LargeLogitsAndNan) {
  for (Isa isa : cpu::available_isas()) {
    Op op = head_op(3, kVocab, 8);
    for (double& w : op.in[1].values)
      w *= 1e4;  // logits up to some 1e5: one word holds all probability
    op.in[0].values[8] = std::nan("");
    const auto out = execute(op, {.isa = isa, .dtype = DType::f32, .values = DType::f32});
    const auto truth = execute(op, {.values = DType::f32});
    for (const int64_t i : {0, 2}) {
      // A logit of 1e5 is rounded to 2^-7; sums of 8 such.
      EXPECT_NEAR(out[0].get(i), truth[0].get(i), 0.1) << cpu::isa_name(isa);
      EXPECT_TRUE(std::isfinite(out[4].get(i * 8)));
    }
    EXPECT_TRUE(std::isnan(out[0].get(1))) << cpu::isa_name(isa);
    EXPECT_TRUE(std::isnan(out[4].get(8))) << cpu::isa_name(isa);
  }
}

// The fused adjoint and the separate one agree: each is within two roundings of the truth
// (Accuracy, above).
TEST(Head, FusedDxAgreesWithBackward) {
  for (Isa isa : cpu::available_isas()) {
    for (const DType t : {DType::bf16, DType::f32}) {
      const auto fused = execute(head_op(40, kVocab, 24), {.isa = isa, .dtype = t, .threads = 2});
      const auto apart =
          execute(backward_op(40, kVocab, 24, false), {.isa = isa, .dtype = t, .threads = 2});
      EXPECT_LE(error(fused[4], apart[0]), 4 * unit_roundoff(t) + 80 * 0x1p-24) << describe(isa, t);
    }
  }
}

TEST(HeadBackward, ThreadsDoNotMatterAndDxRowsAreExact) {
  check_threads(backward_op(70, kVocab, 24, true));
  check_threads(head_op(70, kVocab, 24));
}

TEST(HeadBackward, AgreesWithFiniteDifferences) {
  const int64_t r = 3, v = 1100, d = 10;
  const Op base = head_op(r, v, d, {.dx = false});
  const auto dlogprob = numbers(3, r), dentropy = numbers(4, r);
  const auto loss = [&](const std::vector<double>& x, const std::vector<double>& w) {
    Op op = base;
    op.in[0].values = x;
    op.in[1].values = w;
    const auto out = execute(op, {});
    double sum = 0;
    for (int64_t i = 0; i < r; ++i) {
      sum += dlogprob[static_cast<size_t>(i)] * out[0].get(i) +
             dentropy[static_cast<size_t>(i)] * out[1].get(i);
    }
    return sum;
  };
  Op back = backward_op(r, v, d, true);
  back.out[1].values.assign(static_cast<size_t>(v * d), 0);
  const auto grad = execute(back, {});
  const auto x = base.in[0].values, w = base.in[1].values;
  // Central differences at h = 1e-5: h^2 times third derivatives, and 1e-15 / h of noise. Measured
  // 4e-10.
  check_gradient([&](const auto& p) { return loss(p, w); }, x, grad[0], 1e-8);
  check_gradient([&](const auto& p) { return loss(x, p); }, w, grad[1], 1e-8);

  // The fused adjoint has no entropy term.
  const auto fused = execute(head_op(r, v, d), {});
  const auto logprob_only = [&](const std::vector<double>& p) {
    Op op = base;
    op.in[0].values = p;
    const auto out = execute(op, {});
    double sum = 0;
    for (int64_t i = 0; i < r; ++i) sum += dlogprob[static_cast<size_t>(i)] * out[0].get(i);
    return sum;
  };
  check_gradient(logprob_only, x, fused[4], 1e-8);
}

}  // namespace
}  // namespace hone::test
