// RoPE, SwiGLU, row moves, conversion and dropout on every path. Legend: T rows, H heads, D
// features.
#include "backend/desc/elementwise.h"
#include "support/kernel_harness.h"

#include <limits>

namespace hone::test {
namespace {

using cpu::Isa;

std::vector<double> table_values(int64_t t, int64_t d) {
  std::vector<double> v;
  for (int64_t r = 0; r < t; ++r) {
    for (int64_t i = 0; i < d; ++i) {
      const double angle =
          static_cast<double>(r * 7 % 50) *
          std::pow(10000.0, -2.0 * static_cast<double>(i % (d / 2)) / static_cast<double>(d));
      v.push_back(i < d / 2 ? std::cos(angle) : std::sin(angle));
    }
  }
  return v;
}

Op rope_op(int64_t t, int64_t h, int64_t d, bool inverse, bool in_place = false) {
  Op op;
  op.in = {{Kind::data, {t, h, d}, numbers(1, t * h * d)},
           {Kind::stat, {t, d}, table_values(t, d)}};
  op.out = {{Kind::data, {t, h, d}, in_place ? op.in[0].values : std::vector<double>{}}};
  op.run = [=](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    return run_kernel(cpu::rope(isa),
                      RopeDesc{.x = in_place ? out[0].view() : in[0].view(),
                               .table = in[1].view(),
                               .y = out[0].view(),
                               .inverse = inverse},
                      threads);
  };
  return op;
}

TEST(Rope, AccuracyAndExactRows) {
  for (const int64_t d : {2, 10, 32, 64, 80, 128}) {
    check_accuracy(rope_op(4, 3, d, false), 4);
    check_accuracy(rope_op(4, 3, d, true, true), 4);
  }
  check_rows(rope_op(100, 2, 64, false));
}

// transformers: y = x * [cos cos] + rotate_half(x) * [sin sin], rotate_half(x) = [-x2, x1].
TEST(Rope, HalfSplitLayoutOfTransformers) {
  const int64_t t = 3, h = 2, d = 8;
  const Op op = rope_op(t, h, d, false);
  const auto out = execute(op, {});
  const auto x = op.in[0].values, table = op.in[1].values;
  for (int64_t r = 0; r < t; ++r) {
    for (int64_t k = 0; k < h; ++k) {
      for (int64_t i = 0; i < d; ++i) {
        const auto at = [&](int64_t j) { return x[static_cast<size_t>((r * h + k) * d + j)]; };
        const double rotated = i < d / 2 ? -at(i + d / 2) : at(i - d / 2);
        const double c = table[static_cast<size_t>(r * d + i % (d / 2))];
        const double s = table[static_cast<size_t>(r * d + d / 2 + i % (d / 2))];
        EXPECT_NEAR(out[0].get((r * h + k) * d + i), at(i) * c + rotated * s, 1e-15);
      }
    }
  }
}

// Interleaved: pairs are neighbours. The same numbers as halves give, in their places; in all
// dtypes and on all paths, to the last bit.
TEST(Rope, InterleavedIsHalfSplitOfPermutedColumns) {
  const int64_t t = 3, h = 2, d = 20, n = t * h * d;
  const auto halves_of = [d](int64_t i) {  // where column i of halves stands among pairs
    const int64_t row = i / d * d, k = i % d;
    return row + (k < d / 2 ? 2 * k : 2 * (k - d / 2) + 1);
  };
  for (Isa isa : cpu::available_isas()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const bool inverse : {false, true}) {
        Array pairs(dtype, {t, h, d}), halves(dtype, {t, h, d}), table(DType::f32, {t, d});
        const auto x = numbers(7, n), angles = table_values(t, d);
        for (int64_t i = 0; i < n; ++i) {
          halves.set(i, x[static_cast<size_t>(i)]);
          pairs.set(halves_of(i), x[static_cast<size_t>(i)]);
        }
        for (int64_t i = 0; i < t * d; ++i) table.set(i, angles[static_cast<size_t>(i)]);
        RopeDesc desc{
            .x = halves.view(), .table = table.view(), .y = halves.view(), .inverse = inverse};
        ASSERT_TRUE(run_kernel(cpu::rope(isa), desc, 2).ok());
        desc.x = desc.y = pairs.view();
        desc.interleaved = true;
        ASSERT_TRUE(run_kernel(cpu::rope(isa), desc, 2).ok());
        for (int64_t i = 0; i < n; ++i) EXPECT_EQ(pairs.get(halves_of(i)), halves.get(i)) << i;
        EXPECT_TRUE(pairs.guards_intact());
      }
    }
  }
}

// The inverse is the transpose, and as rotations are orthogonal it undoes the forward one.
TEST(Rope, InverseUndoes) {
  const Op forward = rope_op(5, 2, 64, false);
  const auto y = execute(forward, {});
  Op back = rope_op(5, 2, 64, true);
  for (int64_t i = 0; i < y[0].numel(); ++i)
    back.in[0].values[static_cast<size_t>(i)] = y[0].get(i);
  const auto x = execute(back, {});
  for (int64_t i = 0; i < x[0].numel(); ++i) {
    EXPECT_NEAR(x[0].get(i), forward.in[0].values[static_cast<size_t>(i)], 1e-14);
  }
}

Op sum_heads_op(int64_t t, int64_t h, int64_t d) {
  Op op;
  op.in = {{Kind::data, {t, h, d}, numbers(1, t * h * d)}};
  op.out = {{Kind::data, {t, d}, {}}};
  op.run = [](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    return run_kernel(cpu::sum_heads(isa), SumHeadsDesc{in[0].view(), out[0].view()}, threads);
  };
  return op;
}

TEST(SumHeads, AddsInFp32) {
  check_accuracy(sum_heads_op(3, 7, 64), 7);
  check_accuracy(sum_heads_op(2, 128, 33), 128);
  check_rows(sum_heads_op(100, 5, 64));
  const auto out = execute(sum_heads_op(1, 2, 3), {});
  const std::vector<double> x = numbers(1, 6);
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(out[0].get(i), x[static_cast<size_t>(i)] + x[static_cast<size_t>(3 + i)], 1e-15);
  }
}

TEST(RopeTable, AnglesAreFp32Products) {
  for (Isa isa : cpu::available_isas()) {
    Array positions(DType::i32, {300}), freq(DType::f32, {32}), table(DType::f32, {300, 64}, 2);
    for (int64_t i = 0; i < 300; ++i) positions.set(i, static_cast<double>(i * 431));
    for (int64_t i = 0; i < 32; ++i) {
      freq.set(i, std::pow(1e6, -static_cast<double>(i) / 32));
    }
    RopeTableDesc d{positions.view(), freq.view(), table.view()};
    Array scaled(DType::f32, {300, 64}, 2);
    ASSERT_TRUE(run_kernel(cpu::rope_table(isa), d, 2).ok());
    d.table = scaled.view(), d.scale = 1.25f;
    ASSERT_TRUE(run_kernel(cpu::rope_table(isa), d, 2).ok());
    EXPECT_TRUE(table.guards_intact());
    for (int64_t i = 0; i < 300 * 64; ++i) {
      EXPECT_EQ(scaled.get(i), static_cast<double>(static_cast<float>(table.get(i)) * 1.25f));
    }
    for (int64_t t = 0; t < 300; ++t) {
      for (int64_t i = 0; i < 32; ++i) {
        const float angle = static_cast<float>(positions.get(t)) * static_cast<float>(freq.get(i));
        EXPECT_EQ(table.get(t * 64 + i),
                  static_cast<double>(static_cast<float>(std::cos(static_cast<double>(angle)))));
        EXPECT_EQ(table.get(t * 64 + 32 + i),
                  static_cast<double>(static_cast<float>(std::sin(static_cast<double>(angle)))));
      }
    }
  }
}

Op swiglu_op(int64_t t, int64_t f, double scale = 6) {
  Op op;
  op.in = {{Kind::data, {t, f}, numbers(1, t * f, scale)}, {Kind::data, {t, f}, numbers(2, t * f)}};
  op.out = {{Kind::data, {t, f}, {}}};
  op.run = [](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    return run_kernel(cpu::swiglu(isa), SwigluDesc{in[0].view(), in[1].view(), out[0].view()},
                      threads);
  };
  return op;
}

Op swiglu_backward_op(int64_t t, int64_t f) {
  Op op;
  op.in = {{Kind::data, {t, f}, numbers(3, t * f)}};
  op.out = {{Kind::data, {t, f}, numbers(1, t * f, 6)}, {Kind::data, {t, f}, numbers(2, t * f)}};
  op.run = [](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
    const View g = out[0].view(), u = out[1].view();  // gradients take the inputs' place
    return run_kernel(cpu::swiglu_backward(isa), SwigluBackwardDesc{g, u, in[0].view(), g, u},
                      threads);
  };
  return op;
}

TEST(Swiglu, AccuracyAndExactRows) {
  for (const int64_t f : {1, 15, 64, 333}) {
    check_accuracy(swiglu_op(3, f), 8);
    check_accuracy(swiglu_op(3, f, 300), 8);  // far into saturation
    check_accuracy(swiglu_backward_op(3, f), 8);
  }
  check_rows(swiglu_op(100, 77));
  check_rows(swiglu_backward_op(100, 77));
}

TEST(Swiglu, SaturatesAndKeepsNan) {
  for (Isa isa : cpu::available_isas()) {
    Op op = swiglu_op(1, 20);
    op.in[0].values.assign(20, 1);
    op.in[1].values.assign(20, 1);
    op.in[0].values[0] = 3e38;
    op.in[0].values[1] = -3e38;
    op.in[0].values[2] = std::nan("");
    op.in[0].values[18] = 200;
    op.in[0].values[19] = -200;
    const auto out = execute(op, {.isa = isa, .dtype = DType::f32});
    EXPECT_EQ(out[0].get(0), static_cast<double>(3e38f)) << cpu::isa_name(isa);
    EXPECT_EQ(out[0].get(1), 0) << cpu::isa_name(isa);
    EXPECT_TRUE(std::isnan(out[0].get(2))) << cpu::isa_name(isa);
    EXPECT_EQ(out[0].get(18), 200) << cpu::isa_name(isa);
    EXPECT_NEAR(out[0].get(19), 0, 1e-36) << cpu::isa_name(isa);
  }
}

TEST(Swiglu, AdjointAgreesWithFiniteDifferences) {
  const int64_t t = 2, f = 30;
  const auto g = numbers(1, t * f, 6), u = numbers(2, t * f), dy = numbers(3, t * f);
  const auto loss = [&](const std::vector<double>& gv, const std::vector<double>& uv) {
    Op op = swiglu_op(t, f);
    op.in[0].values = gv;
    op.in[1].values = uv;
    const auto out = execute(op, {});
    double sum = 0;
    for (int64_t i = 0; i < t * f; ++i) sum += dy[static_cast<size_t>(i)] * out[0].get(i);
    return sum;
  };
  const auto grad = execute(swiglu_backward_op(t, f), {});
  check_gradient([&](const auto& v) { return loss(v, u); }, g, grad[0], 1e-8);
  check_gradient([&](const auto& v) { return loss(g, v); }, u, grad[1], 1e-8);
}

TEST(Add, AccuracyAndExactRows) {
  const auto op = [](std::vector<int64_t> shape) {
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    Op o;
    o.in = {{Kind::data, shape, numbers(1, n)}, {Kind::stat, shape, numbers(2, n)}};
    o.out = {{Kind::data, shape, {}}};
    o.run = [](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
      return run_kernel(cpu::add(isa), AddDesc{in[0].view(), in[1].view(), out[0].view()}, threads);
    };
    return o;
  };
  check_accuracy(op({100}), 1);
  check_accuracy(op({7, 90}), 1);
  check_accuracy(op({3, 2, 5, 17}), 1);
  check_rows(op({100, 90}));
}

TEST(Convert, RoundsToNearestEvenDenormalsAndNanIncluded) {
  // Every bf16 pattern, its neighbours half a step away and a bit more or less.
  std::vector<uint32_t> patterns;
  for (uint32_t hi = 0; hi < 0x10000; hi += 7) {
    for (uint32_t lo : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      patterns.push_back(hi << 16 | lo);
    }
  }
  const int64_t n = static_cast<int64_t>(patterns.size());
  for (Isa isa : cpu::available_isas()) {
    std::vector<uint16_t> out(patterns.size());
    std::vector<float> back(patterns.size());
    View x{.data = patterns.data(), .dtype = DType::f32, .rank = 1, .shape = {n}, .stride = {1}};
    View y{.data = out.data(), .dtype = DType::bf16, .rank = 1, .shape = {n}, .stride = {1}};
    View z{.data = back.data(), .dtype = DType::f32, .rank = 1, .shape = {n}, .stride = {1}};
    ASSERT_TRUE(run_kernel(cpu::convert(isa), ConvertDesc{x, y}, 2).ok());
    ASSERT_TRUE(run_kernel(cpu::convert(isa), ConvertDesc{y, z}, 2).ok());
    for (size_t i = 0; i < out.size(); ++i) {
      const float f = std::bit_cast<float>(patterns[i]);
      if (std::isnan(f)) {
        EXPECT_TRUE(std::isnan(back[i]));
        continue;
      }
      EXPECT_EQ(out[i], bf16(f).bits) << describe(isa, DType::bf16) << " " << patterns[i];
      EXPECT_EQ(std::bit_cast<uint32_t>(back[i]), static_cast<uint32_t>(out[i]) << 16);
    }
  }
}

TEST(Convert, F16AndF64AndScale) {
  std::vector<uint16_t> halves(0x10000);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  const int64_t n = 0x10000;
  for (Isa isa : cpu::available_isas()) {
    std::vector<float> f(halves.size());
    std::vector<double> d(halves.size());
    View x{.data = halves.data(), .dtype = DType::f16, .rank = 1, .shape = {n}, .stride = {1}};
    View y{.data = f.data(), .dtype = DType::f32, .rank = 1, .shape = {n}, .stride = {1}};
    View z{.data = d.data(), .dtype = DType::f64, .rank = 1, .shape = {n}, .stride = {1}};
    ASSERT_TRUE(run_kernel(cpu::convert(isa), ConvertDesc{x, y, 2}, 1).ok());
    ASSERT_TRUE(run_kernel(cpu::convert(isa), ConvertDesc{y, z, 0.5}, 1).ok());
    for (size_t i = 0; i < halves.size(); ++i) {
      f16 h;
      h.bits = halves[i];
      const double expected = static_cast<double>(static_cast<float>(h));
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(d[i]));
      } else {
        EXPECT_EQ(d[i], expected) << cpu::isa_name(isa) << " " << i;
      }
    }
  }
}

TEST(Embedding, TakesRowsOfEveryFormat) {
  for (Isa isa : cpu::available_isas()) {
    for (const DType table_type : {DType::f32, DType::bf16}) {
      for (const DType y_type : {DType::f32, DType::bf16}) {
        Array tokens(DType::i32, {70}), table(table_type, {11, 45}, 3), y(y_type, {70, 45}, 2);
        table.set_all(numbers(1, 11 * 45));
        for (int64_t t = 0; t < 70; ++t) tokens.set(t, static_cast<double>(t * 5 % 11));
        const EmbeddingDesc d{tokens.view(), table.weight(), y.view()};
        ASSERT_TRUE(run_kernel(cpu::embedding(isa), d, 2).ok());
        EXPECT_TRUE(y.guards_intact());
        for (int64_t t = 0; t < 70; ++t) {
          for (int64_t i = 0; i < 45; ++i) {
            EXPECT_EQ(y.get(t * 45 + i), round_to(y_type, table.get(t * 5 % 11 * 45 + i)));
          }
        }
        tokens.set(9, 11);
        EXPECT_FALSE(run_kernel(cpu::embedding(isa), d).ok());
        tokens.set(9, -1);
        EXPECT_FALSE(run_kernel(cpu::embedding(isa), d).ok());
      }
    }
  }
}

TEST(EmbeddingBackward, AddsInAscendingOrder) {
  const int64_t t = 90, v = 7, d = 600;
  for (Isa isa : cpu::available_isas()) {
    for (const DType type : {DType::f32, DType::bf16}) {
      std::vector<unsigned char> bits[2];
      for (const int threads : {1, 2}) {
        Array tokens(DType::i32, {t}), dy(type, {t, d}, 1), dtable(DType::f32, {v, d}, 3);
        dy.set_all(numbers(1, t * d));
        dtable.set_all(numbers(2, v * d));
        for (int64_t i = 0; i < t; ++i) tokens.set(i, static_cast<double>(i * i % v));
        std::vector<float> expected;
        for (int64_t i = 0; i < v * d; ++i) expected.push_back(static_cast<float>(dtable.get(i)));
        for (int64_t i = 0; i < t; ++i) {
          for (int64_t j = 0; j < d; ++j) {
            expected[static_cast<size_t>(i * i % v * d + j)] +=
                static_cast<float>(dy.get(i * d + j));
          }
        }
        const EmbeddingBackwardDesc b{tokens.view(), dy.view(), dtable.view()};
        ASSERT_TRUE(run_kernel(cpu::embedding_backward(isa), b, threads).ok());
        EXPECT_TRUE(dtable.guards_intact());
        for (int64_t i = 0; i < v * d; ++i) {
          if (isa == Isa::reference) {  // its sums are rounded from fp64 each time: the same here
            EXPECT_NEAR(dtable.get(i), static_cast<double>(expected[static_cast<size_t>(i)]), 1e-5);
          } else {
            EXPECT_EQ(dtable.get(i), static_cast<double>(expected[static_cast<size_t>(i)]));
          }
        }
        bits[threads - 1] = dtable.packed();
      }
      EXPECT_EQ(bits[0], bits[1]);
    }
  }
}

TEST(GatherScatter, MoveAndAddRows) {
  const int64_t t = 50, r = 20, d = 37;
  for (Isa isa : cpu::available_isas()) {
    for (const DType type : {DType::f32, DType::bf16}) {
      Array x(type, {t, d}, 3), rows(DType::i32, {r}), y(type, {r, d}, 1);
      x.set_all(numbers(1, t * d));
      for (int64_t i = 0; i < r; ++i) rows.set(i, static_cast<double>((i * 7 + 3) % t));
      ASSERT_TRUE(
          run_kernel(cpu::gather_rows(isa), GatherRowsDesc{x.view(), rows.view(), y.view()}).ok());
      EXPECT_TRUE(y.guards_intact());
      for (int64_t i = 0; i < r * d; ++i) {
        EXPECT_EQ(y.get(i), x.get((i / d * 7 + 3) % t * d + i % d));
      }
      const Array before = x;
      y.set_all(numbers(2, r * d));
      const ScatterRowsDesc s{y.view(), rows.view(), x.view(), true};
      ASSERT_TRUE(run_kernel(cpu::scatter_rows(isa), s, 2).ok());
      EXPECT_TRUE(x.guards_intact());
      std::vector<double> expected;
      for (int64_t i = 0; i < t * d; ++i) expected.push_back(before.get(i));
      for (int64_t i = 0; i < r * d; ++i) {
        const int64_t at = (i / d * 7 + 3) % t * d + i % d;
        expected[static_cast<size_t>(at)] = round_to(type, before.get(at) + y.get(i));
      }
      for (int64_t i = 0; i < t * d; ++i) {
        EXPECT_EQ(x.get(i), expected[static_cast<size_t>(i)]);
      }
      const ScatterRowsDesc assign{y.view(), rows.view(), x.view(), false};
      ASSERT_TRUE(run_kernel(cpu::scatter_rows(isa), assign, 2).ok());
      for (int64_t i = 0; i < r * d; ++i) {
        EXPECT_EQ(x.get((i / d * 7 + 3) % t * d + i % d), y.get(i));
      }
      rows.set(3, static_cast<double>(t));
      EXPECT_FALSE(run_kernel(cpu::scatter_rows(isa), assign, 2).ok());
    }
  }
}

// Rows of several heads go to pages that hold one head after the other.
TEST(GatherScatter, HeadsToPages) {
  const int64_t pages = 3, heads = 2, page_rows = 4, d = 5, r = 6;
  for (Isa isa : cpu::available_isas()) {
    Array x(DType::bf16, {pages * heads * page_rows, d}), y(DType::bf16, {r, heads * d}, 3),
        rows(DType::i32, {r});
    y.set_all(numbers(2, r * heads * d));
    View paged = x.view(), listed = y.view();
    paged.rank = listed.rank = 3;
    paged.shape[0] = (pages * heads - heads + 1) * page_rows;
    paged.shape[1] = listed.shape[1] = heads;
    paged.shape[2] = listed.shape[2] = d;
    paged.stride[1] = page_rows * d;
    listed.stride[1] = d;
    paged.stride[2] = listed.stride[2] = 1;
    const int64_t at[r][2] = {{0, 0}, {2, 3}, {1, 1}, {2, 0}, {0, 2}, {1, 3}};  // page, row of it
    for (int64_t i = 0; i < r; ++i)
      rows.set(i, static_cast<double>(at[i][0] * heads * page_rows + at[i][1]));
    const ScatterRowsDesc s{listed, rows.view(), paged};
    ASSERT_TRUE(run_kernel(cpu::scatter_rows(isa), s, 2).ok());
    EXPECT_TRUE(x.guards_intact());
    for (int64_t i = 0; i < r; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t j = 0; j < d; ++j) {
          EXPECT_EQ(x.get(((at[i][0] * heads + h) * page_rows + at[i][1]) * d + j),
                    y.get((i * heads + h) * d + j));
        }
      }
    }
  }
}

// The mask by the descriptor's words, from core/rng.h.
bool keeps(uint64_t seed, uint64_t salt, int64_t id, int64_t feature, float p) {
  const auto w = random_words(seed, Purpose::dropout, static_cast<uint64_t>(id),
                              salt + static_cast<uint64_t>(feature) / 4);
  return uniform_float(w[static_cast<size_t>(feature % 4)]) >= p;
}

TEST(Dropout, MaskIsAFunctionOfRowAndFeature) {
  const int64_t t = 19, k = 301;
  const float p = 0.3f;
  const uint64_t seed = 0x123456789abcdefull, salt = 0xfedcba9876543210ull;
  for (Isa isa : cpu::available_isas()) {
    for (const DType type : {DType::f32, DType::bf16}) {
      for (const bool accumulate : {false, true}) {
        Array x(type, {t, k}, 3), y(type, {t, k}, 1), ids(DType::i64, {t});
        x.set_all(numbers(1, t * k));
        y.set_all(numbers(2, t * k));
        const Array before = y;
        for (int64_t i = 0; i < t; ++i) ids.set(i, static_cast<double>((i * 3 + 1) << 33));
        const DropoutDesc d{x.view(), y.view(), ids.view(), seed, salt, p, accumulate};
        ASSERT_TRUE(run_kernel(cpu::dropout(isa), d, 2).ok());
        EXPECT_TRUE(y.guards_intact());
        for (int64_t i = 0; i < t; ++i) {
          for (int64_t j = 0; j < k; ++j) {
            const bool kept = keeps(seed, salt, (i * 3 + 1) << 33, j, p);
            const double factor = kept ? static_cast<double>(1.0f / (1.0f - p)) : 0;
            const double base = accumulate ? before.get(i * k + j) : 0;
            const double expected = x.get(i * k + j) * factor + base;
            // One rounding of the product, one of the sum, one to the type.
            EXPECT_NEAR(y.get(i * k + j), expected,
                        4 * (unit_roundoff(type) + 0x1p-24) * (1 + std::fabs(expected)))
                << describe(isa, type);
            if (!kept) {
              EXPECT_EQ(y.get(i * k + j), base);
            }
          }
        }
      }
    }
  }
}

TEST(Dropout, KeepRateAndPacking) {
  const int64_t t = 200, k = 500;
  const auto op = [&](float p) {
    Op o;
    std::vector<double> ids;
    for (int64_t i = 0; i < t; ++i) ids.push_back(static_cast<double>(i * 1000003));
    o.in = {{Kind::data, {t, k}, std::vector<double>(t * k, 1)}, {Kind::i64, {t}, ids}};
    o.out = {{Kind::data, {t, k}, {}}};
    o.run = [p](Isa isa, std::vector<Array>& in, std::vector<Array>& out, int threads) {
      return run_kernel(
          cpu::dropout(isa),
          DropoutDesc{
              .x = in[0].view(), .y = out[0].view(), .row_ids = in[1].view(), .seed = 5, .p = p},
          threads);
    };
    return o;
  };
  check_rows(op(0.1f));
  for (Isa isa : cpu::available_isas()) {
    for (const float p : {0.0f, 0.1f, 0.5f, 0.9f}) {
      const auto out = execute(op(p), {.isa = isa, .dtype = DType::f32});
      double kept = 0;
      for (int64_t i = 0; i < t * k; ++i) kept += out[0].get(i) != 0;
      // 5 standard deviations of a binomial.
      const double n = static_cast<double>(t * k), q = 1 - static_cast<double>(p);
      EXPECT_NEAR(kept / n, q, 5 * std::sqrt(q * (1 - q) / n) + 1e-12);
    }
  }
}

}  // namespace
}  // namespace hone::test
