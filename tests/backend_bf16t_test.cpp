// Format::bf16t holds every bf16 number, and products with it give the bits of the same weight as
// bf16, on the paths that take it.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "backend/bf16t.h"
#include "backend/cpu/cpu.h"
#include "backend/desc/elementwise.h"
#include "backend/desc/gemm.h"
#include "backend/desc/head.h"
#include "core/rng.h"
#include "support/gemm_matrix.h"

namespace hone {
namespace {

using cpu::Isa;
using test::run;

std::array<uint32_t, 4> words(uint64_t seed, uint64_t i) {
  return random_words(seed, Purpose::test, 1, i);
}

std::vector<uint16_t> normal(uint64_t seed, int64_t n, double scale) {
  std::vector<uint16_t> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) {
    const auto w = words(seed, i);
    v[i] = bf16(static_cast<float>(scale * normal_double(w[0], w[1]))).bits;
  }
  return v;
}

// A weight as bf16 and as bf16t.
struct Both {
  Both(std::vector<uint16_t> numbers, int64_t rows, int64_t cols, int threads = 1)
      : plain(std::move(numbers)) {
    ThreadPool pool(threads);
    const Bf16tPacker packer(plain.data(), rows, cols, pool);
    // a guard behind, which packing must leave alone
    packed.assign(static_cast<size_t>(packer.bytes()) + 64, 0x5a);
    packer.pack(packed.data());
    worth = packer.worth();
    as_bf16 = {.data = plain.data(),
               .rows = rows,
               .cols = cols,
               .stride_bytes = format_row_bytes(Format::bf16, cols),
               .format = Format::bf16};
    as_bf16t = {.data = packed.data(),
                .rows = rows,
                .cols = cols,
                .stride_bytes = format_row_bytes(Format::bf16t, cols),
                .format = Format::bf16t};
  }
  bool guard_holds() const {
    return std::all_of(packed.end() - 64, packed.end(), [](uint8_t b) { return b == 0x5a; });
  }
  std::vector<uint16_t> read_back() const {
    std::vector<uint16_t> all(plain.size());
    std::vector<float> row(static_cast<size_t>(as_bf16t.cols));
    for (int64_t r = 0; r < as_bf16t.rows; ++r) {
      bf16t_to_fp32(as_bf16t, r, 0, as_bf16t.cols, row.data());
      for (int64_t c = 0; c < as_bf16t.cols; ++c)
        all[static_cast<size_t>(r * as_bf16t.cols + c)] =
            static_cast<uint16_t>(std::bit_cast<uint32_t>(row[static_cast<size_t>(c)]) >> 16);
    }
    return all;
  }

  std::vector<uint16_t> plain;
  std::vector<uint8_t> packed;
  bool worth;
  WeightView as_bf16, as_bf16t;
};

// Tiles of all kinds, one after another: normal, with zeros, of one number, of 16 and of 17 powers
// of two above an even and an odd one, of the largest and the smallest exponents, of any bits.
std::vector<uint16_t> all_kinds(int64_t rows, int64_t cols) {
  std::vector<uint16_t> v = normal(5, rows * cols, 0.02);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const auto w = words(6, static_cast<uint64_t>(r * cols + c));
      const auto bits = [&](uint32_t low, uint32_t count) {
        const uint32_t exponent = low + w[0] % count;
        return static_cast<uint16_t>((w[1] & 0x807f) | (exponent << 7));
      };
      uint16_t& to = v[static_cast<size_t>(r * cols + c)];
      switch ((r / 16 * (cols / 32) + c / 32) % 9) {
        case 1:
          if (w[0] % 100 == 0) to = w[1] % 2 ? 0x8000 : 0;
          break;
        case 2:
          to = 0xbf81;
          break;
        case 3:
          to = bits(100, 16);
          break;
        case 4:
          to = bits(101, 16);
          break;
        case 5:
          to = bits(100, 17);
          break;
        case 6:
          to = bits(240, 16);  // infinity and NaN among them
          break;
        case 7:
          to = bits(0, 4);
          break;
        case 8:
          to = static_cast<uint16_t>(w[2]);
          break;
        default:
          break;
      }
    }
  }
  return v;
}

TEST(Bf16t, HoldsEveryNumber) {
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{16, 32}, {16, 2080}, {48, 288}, {1040, 96}}) {
    const Both both(all_kinds(rows, cols), rows, cols, 2);
    EXPECT_EQ(both.read_back(), both.plain) << rows << " x " << cols;
    EXPECT_TRUE(both.guard_holds());
  }
}

TEST(Bf16t, SizeAndWorth) {
  const Both weights(normal(1, 512 * 896, 0.02), 512, 896);
  EXPECT_TRUE(weights.worth);
  // 12 bits, headers, and the few tiles that stay bf16
  const double share = static_cast<double>(weights.packed.size() - 64) / (512 * 896 * 2);
  EXPECT_GT(share, 0.75);
  EXPECT_LT(share, 0.80);
  EXPECT_EQ(format_row_bytes(Format::bf16t, 896), (28 * 768 + 64) / 16);
  EXPECT_EQ(format_row_bytes(Format::bf16t, 4864), (152 * 768 + 192) / 16);

  std::vector<uint16_t> sparse = normal(2, 512 * 896, 0.02);
  for (size_t i = 0; i < sparse.size(); i += 2) sparse[i] = 0;
  const Both pruned(sparse, 512, 896);
  EXPECT_FALSE(pruned.worth);
  EXPECT_EQ(pruned.read_back(), pruned.plain);
  EXPECT_FALSE(Bf16tPacker::fits(40, 64));
  EXPECT_FALSE(Bf16tPacker::fits(32, 48));
}

View matrix(void* data, DType type, int64_t rows, int64_t cols, int64_t stride) {
  View v;
  v.data = data;
  v.dtype = type;
  v.rank = 2;
  v.shape[0] = rows;
  v.shape[1] = cols;
  v.stride[0] = stride;
  v.stride[1] = 1;
  return v;
}

class Bf16tPath : public testing::TestWithParam<Isa> {};

// With everything that a product may have, and with nothing.
TEST_P(Bf16tPath, ProductsHaveTheBitsOfBf16) {
  const KernelTable table = cpu::kernel_table(GetParam());
  struct Shape {
    int64_t n, k;
  };
  for (const Shape s : {Shape{16, 32}, {48, 64}, {64, 96}, {80, 288}, {208, 320}, {1040, 1184}}) {
    if (cpu::compact_format(GetParam()) != Format::bf16t && s.n * s.k > 48 * 64)
      continue;  // plain loops are slow
    // finite numbers, half of the tiles left as bf16; then plain weights
    std::vector<uint16_t> numbers = normal(3, s.n * s.k, 0.02);
    for (int64_t r = 0; r < s.n; ++r) {
      for (int64_t c = 0; c < s.k; ++c) {
        if ((r / 16 + c / 32) % 2 && r % 16 == 3) numbers[static_cast<size_t>(r * s.k + c)] = 0;
      }
    }
    const Both both(numbers, s.n, s.k);
    for (const int64_t t : {1, 2, 15, 16, 17, 31, 32, 33, 70, 600}) {
      for (const int64_t rank : {0, 8, 24}) {
        for (const bool all : {false, true}) {
          for (const int threads : {1, 2}) {
            std::vector<uint16_t> x = normal(7, t * (s.k + 8), 1);
            std::vector<float> x2(static_cast<size_t>(t * rank)),
                w2(static_cast<size_t>(s.n * rank)), bias(static_cast<size_t>(s.n));
            for (size_t i = 0; i < x2.size(); ++i) x2[i] = static_cast<float>(i % 7) - 3.3f;
            for (size_t i = 0; i < w2.size(); ++i) w2[i] = static_cast<float>(i % 11) - 5.1f;
            for (size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i % 5);
            const WeightView second = {.data = w2.data(),
                                       .rows = s.n,
                                       .cols = rank,
                                       .stride_bytes = rank * 4,
                                       .format = Format::f32};
            const auto product = [&](const WeightView& w) {
              std::vector<uint16_t> y(static_cast<size_t>(t * (s.n + 3)), 0x3f80);
              GemmDesc d;
              d.x = matrix(x.data(), DType::bf16, t, s.k, s.k + 8);
              d.y = matrix(y.data(), DType::bf16, t, s.n, s.n + 3);
              d.weights = &w;
              if (rank > 0) {
                d.x2 = matrix(x2.data(), DType::f32, t, rank, rank);
                d.weights2 = &second;
              }
              if (all) {
                d.bias = matrix(bias.data(), DType::f32, 1, s.n, s.n);
                d.bias.rank = 1;
                d.bias.shape[0] = s.n;
                d.bias.stride[0] = 1;
                d.add = d.y;
                d.alpha = 0.37f;
              }
              const Status status = run(table.gemm, d, threads);
              EXPECT_TRUE(status.ok()) << status.error;
              return y;
            };
            ASSERT_EQ(product(both.as_bf16t), product(both.as_bf16))
                << "N " << s.n << " K " << s.k << " T " << t << " rank " << rank << " all " << all
                << " threads " << threads;
          }
        }
      }
    }
  }
}

TEST_P(Bf16tPath, HeadAndEmbedding) {
  const KernelTable table = cpu::kernel_table(GetParam());
  const int64_t vocab = 17 * 1024 + 16, dim = 64;
  const Both both(normal(9, vocab * dim, 0.02), vocab, dim);
  for (const int64_t rows : {1, 16, 40}) {
    std::vector<uint16_t> x = normal(8, rows * dim, 1);
    const auto logits = [&](const WeightView& w) {
      std::vector<float> out(static_cast<size_t>(rows * vocab));
      std::vector<double> lse(static_cast<size_t>(rows));
      HeadDesc d;
      d.x = matrix(x.data(), DType::bf16, rows, dim, dim);
      d.weight = w;
      d.logits = matrix(out.data(), DType::f32, rows, vocab, vocab);
      d.saved = matrix(lse.data(), DType::f64, rows, 1, 1);
      d.saved.rank = 1;
      const Status status = run(table.head, d, 2);
      EXPECT_TRUE(status.ok()) << status.error;
      return std::pair(out, lse);
    };
    EXPECT_EQ(logits(both.as_bf16t), logits(both.as_bf16)) << rows << " rows";
  }
  std::vector<int32_t> tokens = {0, 15, 16, 17000, 31, static_cast<int32_t>(vocab - 1)};
  const auto rows_of = [&](const WeightView& w, DType type) {
    std::vector<char> y(tokens.size() * dim * dtype_size(type));
    EmbeddingDesc d;
    d.table = w;
    d.tokens.data = tokens.data();
    d.tokens.dtype = DType::i32;
    d.tokens.rank = 1;
    d.tokens.shape[0] = static_cast<int64_t>(tokens.size());
    d.tokens.stride[0] = 1;
    d.y = matrix(y.data(), type, static_cast<int64_t>(tokens.size()), dim, dim);
    const Status status = run(table.embedding, d, 1);
    EXPECT_TRUE(status.ok()) << status.error;
    return y;
  };
  for (const DType type : {DType::bf16, DType::f32})
    EXPECT_EQ(rows_of(both.as_bf16t, type), rows_of(both.as_bf16, type));
}

// A shape that it can't hold is an error.
TEST_P(Bf16tPath, RefusesPartsOfTiles) {
  const KernelTable table = cpu::kernel_table(GetParam());
  const Both both(normal(4, 64 * 64, 0.02), 64, 64);
  std::vector<float> x(64 * 64), y(64 * 64);
  GemmDesc d;
  d.weights = &both.as_bf16t;
  d.x = matrix(x.data(), DType::bf16, 4, 64, 64);
  d.y = matrix(y.data(), DType::bf16, 4, 64, 64);
  EXPECT_TRUE(run(table.gemm, d, 1).ok());
  WeightView odd = both.as_bf16t;
  odd.rows = 40;
  d.weights = &odd;
  d.y = matrix(y.data(), DType::bf16, 4, 40, 64);
  EXPECT_FALSE(run(table.gemm, d, 1).ok());
}

INSTANTIATE_TEST_SUITE_P(Paths, Bf16tPath, testing::ValuesIn(cpu::available_isas()),
                         [](const auto& info) { return std::string(cpu::isa_name(info.param)); });

}  // namespace
}  // namespace hone
