// Weight formats: what their numbers are, and that products, the head and embedding of every path
// give the bits of the same weight expanded beforehand to what x takes it as.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "backend/bf16t.h"
#include "backend/cpu/expand.h"
#include "backend/desc/elementwise.h"
#include "backend/desc/gemm.h"
#include "backend/desc/head.h"
#include "backend/format.h"
#include "backend/fp8_block.h"
#include "support/gemm_matrix.h"

namespace hone {
namespace {

using cpu::Isa;
using test::isa_label;
using test::Matrix;
using test::run;

// A random weight in a format, with rows and rows of scales further apart than they need be.
class Weight {
 public:
  Weight(Format format, int64_t rows, int64_t cols, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0, 0.05f);
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& v : values) v = normal(rng);
    // a block of other size, one of zeros
    for (int64_t r = 0; r < std::min<int64_t>(rows, 128); ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        if (c / 128 == 1) values[static_cast<size_t>(r * cols + c)] *= 1e4f;
        if (c / 128 == 2) values[static_cast<size_t>(r * cols + c)] = 0;
      }
    }
    view_ = {.rows = rows, .cols = cols, .format = format};
    if (format == Format::bf16t) {
      pack_bf16t(values);
      return;
    }
    view_.stride_bytes = format_row_bytes(format, cols) + 3;
    view_.scale_stride = format_scale_bytes(format, cols) + 8;
    data_.assign(static_cast<size_t>(rows * view_.stride_bytes), 0x7f);
    const int64_t granules = (rows + format_granule(format) - 1) / format_granule(format);
    scale_.assign(static_cast<size_t>(granules * view_.scale_stride), 0x7f);
    view_.data = data_.data();
    view_.scale = scale_.data();
    format_ops(format).pack(values.data(), view_);
  }
  const WeightView& view() const { return view_; }
  Matrix expanded(DType type) const {
    Matrix m(view_.rows, view_.cols, type);
    std::vector<float> row(static_cast<size_t>(view_.cols));
    for (int64_t r = 0; r < view_.rows; ++r) {
      format_ops(view_.format).to_fp32(view_, r, 0, view_.cols, row.data());
      for (int64_t c = 0; c < view_.cols; ++c) m.set(r, c, row[static_cast<size_t>(c)]);
    }
    return m;
  }

 private:
  void pack_bf16t(const std::vector<float>& values) {
    std::vector<bf16> plain;
    for (float v : values) plain.emplace_back(v);
    ThreadPool pool(1);
    const Bf16tPacker packer(plain.data(), view_.rows, view_.cols, pool);
    data_.resize(static_cast<size_t>(packer.bytes()));
    packer.pack(data_.data());
    view_.data = data_.data();
    view_.stride_bytes = format_row_bytes(Format::bf16t, view_.cols);
  }
  WeightView view_;
  std::vector<uint8_t> data_, scale_;
};

bool same_bits(Matrix& a, Matrix& b) {
  const size_t row = static_cast<size_t>(a.col_count()) * dtype_size(a.type());
  for (int64_t i = 0; i < a.row_count(); ++i) {
    if (std::memcmp(a.at(i, 0), b.at(i, 0), row) != 0) return false;
  }
  return true;
}

// Every byte of E4M3 by its definition; to the nearest, ties to even, and no further than 448.
TEST(Fp8Block, Numbers) {
  std::vector<uint8_t> bytes(256);
  for (int i = 0; i < 256; ++i) bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(i);
  std::vector<float> scales = {1, 0.001f}, out(256);
  const WeightView w = {.data = bytes.data(),
                        .scale = scales.data(),
                        .rows = 1,
                        .cols = 256,
                        .stride_bytes = 256,
                        .scale_stride = 8,
                        .format = Format::fp8_block};
  format_ops(w.format).to_fp32(w, 0, 0, 256, out.data());
  EXPECT_EQ(out[0x38], 1.0f);
  EXPECT_EQ(out[0x7e], 448.0f);
  EXPECT_EQ(out[0x01], std::ldexp(1.0f, -9));
  EXPECT_EQ(out[0x07], std::ldexp(7.0f, -9));
  EXPECT_EQ(out[0x08], std::ldexp(1.0f, -6));
  EXPECT_TRUE(std::isnan(out[0x7f]) && std::isnan(out[0xff]));
  // the second block has the other scale, and the sign
  EXPECT_EQ(out[0xfe], -448.0f * 0.001f);
  for (const Isa isa : cpu::available_isas()) {
    for (const DType as : {DType::f32, DType::bf16}) {
      for (int64_t n : {1, 7, 17, 100, 255}) {
        std::vector<char> got(256 * 4);
        cpu::expand_weight_row(isa, w, 0, 256 - n, n, as, got.data());
        for (int64_t i = 0; i < n; ++i) {
          const float want = out[static_cast<size_t>(256 - n + i)];
          float is;
          if (as == DType::f32) {
            std::memcpy(&is, got.data() + i * 4, 4);
            EXPECT_TRUE(is == want || (std::isnan(is) && std::isnan(want))) << i;
          } else {
            bf16 h;
            std::memcpy(&h, got.data() + i * 2, 2);
            is = static_cast<float>(h);
            EXPECT_TRUE(is == static_cast<float>(bf16(want)) ||
                        (std::isnan(is) && std::isnan(want)))
                << i;
          }
        }
      }
    }
  }
}

TEST(Fp8Block, PackRoundsToNearestEven) {
  // 448 sets the scale to 1
  const std::vector<float> in = {448,
                                 17,
                                 19,
                                 -17,
                                 std::ldexp(1.0f, -10),
                                 std::ldexp(3.0f, -10),
                                 0,
                                 std::numeric_limits<float>::quiet_NaN()};
  const std::vector<float> want = {448, 16, 20, -16, 0, std::ldexp(1.0f, -8), 0};
  std::vector<uint8_t> bytes(8);
  float scale = 0;
  const WeightView w = {.data = bytes.data(),
                        .scale = &scale,
                        .rows = 1,
                        .cols = 8,
                        .stride_bytes = 8,
                        .scale_stride = 4,
                        .format = Format::fp8_block};
  format_ops(w.format).pack(in.data(), w);
  EXPECT_EQ(scale, 1.0f);
  std::vector<float> out(8);
  format_ops(w.format).to_fp32(w, 0, 0, 8, out.data());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(out[i], want[i]) << i;
  EXPECT_TRUE(std::isnan(out[7]));
}

class FormatPath : public testing::TestWithParam<Isa> {};

// Forward products, input gradients, few rows (decoding), groups, low-rank words.
TEST_P(FormatPath, ProductsHaveTheBitsOfTheExpandedWeight) {
  const KernelTable table = cpu::kernel_table(GetParam());
  const bool slow = GetParam() <= Isa::scalar;
  struct Shape {
    int64_t n, k;
  };
  for (const Shape s : {Shape{32, 64}, {1, 5}, {130, 129}, {208, 416}, {272, 1312}, {40, 9000}}) {
    if (slow && s.n * s.k > 130 * 129) continue;
    for (const Format format : {Format::fp8_block, Format::bf16t}) {
      if (format == Format::bf16t && (s.n % 16 != 0 || s.k % 32 != 0)) continue;
      const Weight w(format, s.n, s.k, 5), other(format, s.n, s.k, 6);
      for (const GemmOp op : {GemmOp::nt, GemmOp::nn}) {
        for (const DType type : {DType::bf16, DType::f32}) {
          Matrix plain = w.expanded(type), plain_other = other.expanded(type);
          for (const int64_t t : {1, 3, 16, 33, 70, 600}) {
            if (t == 600 && (slow || s.k > 2000)) continue;
            const int64_t in = op == GemmOp::nt ? s.k : s.n, out = op == GemmOp::nt ? s.n : s.k;
            const int64_t rank = t % 2 ? 5 : 0;
            std::mt19937 rng(9);
            Matrix x(t, in, type, 3), x2(t, 5, DType::f32), add(t, out, type);
            Matrix w2(op == GemmOp::nt ? out : 5, op == GemmOp::nt ? 5 : out, DType::f32);
            for (Matrix* m : {&x, &x2, &w2, &add}) m->randomise(rng);
            const std::vector<int32_t> offsets = {0, 0, static_cast<int32_t>(t / 3),
                                                  static_cast<int32_t>(t)};
            const auto product = [&](std::vector<WeightView> weights, Matrix& y) {
              const std::vector<WeightView> seconds(3, w2.weight());
              GemmDesc d;
              d.op = op;
              d.x = x.view();
              d.y = y.view();
              d.weights = weights.data();
              d.groups = 3;
              d.row_offsets = offsets.data();
              if (rank > 0) d.x2 = x2.view(), d.weights2 = seconds.data(), d.alpha = 0.5f;
              d.add = add.view();
              const Status status = run(table.gemm, d, 2);
              EXPECT_TRUE(status.ok()) << status.error;
            };
            Matrix y(t, out, type, 1), want(t, out, type, 1);
            product({w.view(), other.view(), w.view()}, y);
            product({plain.weight(), plain_other.weight(), plain.weight()}, want);
            ASSERT_TRUE(same_bits(y, want) && y.guards_hold())
                << format_layout(format).name << (op == GemmOp::nt ? " nt" : " nn") << " N " << s.n
                << " K " << s.k << " T " << t << " " << dtype_name(type);
          }
        }
      }
    }
  }
}

// Log-probs, logits and both ways to dx; rows of a table.
TEST_P(FormatPath, HeadAndEmbedding) {
  const KernelTable table = cpu::kernel_table(GetParam());
  const int64_t vocab = 2 * 1024 + 160, dim = 320, rows = 5;
  for (const Format format : {Format::fp8_block, Format::bf16t}) {
    const Weight w(format, vocab, dim, 3);
    for (const DType type : {DType::bf16, DType::f32}) {
      Matrix plain = w.expanded(type), x(rows, dim, type, 2);
      std::mt19937 rng(4);
      x.randomise(rng, 0.1f);
      std::vector<int32_t> ids = {0, 1023, 1024, 2047, static_cast<int32_t>(vocab - 1)};
      View tokens;
      tokens.data = ids.data();
      tokens.dtype = DType::i32;
      tokens.rank = 1;
      tokens.shape[0] = rows;
      tokens.stride[0] = 1;
      const auto everything = [&](const WeightView& weight) {
        std::vector<Matrix> out;
        out.emplace_back(1, rows, DType::f32);  // log-probs
        out.emplace_back(1, rows, DType::f32);  // lse
        out.emplace_back(rows, dim, type);      // dx, with the forward pass
        out.emplace_back(rows, dim, type);      // dx, later
        out.emplace_back(rows, dim, type);      // embedding
        Matrix adjoint(1, rows, DType::f32);
        for (int64_t i = 0; i < rows; ++i) adjoint.set(0, i, 0.3 * static_cast<double>(i) - 0.5);
        const HeadDesc d = {.x = x.view(),
                            .weight = weight,
                            .targets = tokens,
                            .logprob = out[0].vector(),
                            .saved = out[1].vector(),
                            .dlogprob = adjoint.vector(),
                            .dx = out[2].view()};
        Status status = run(table.head, d, 2);
        EXPECT_TRUE(status.ok()) << status.error;
        const HeadBackwardDesc back = {.x = x.view(),
                                       .weight = weight,
                                       .targets = tokens,
                                       .saved = out[1].vector(),
                                       .dlogprob = adjoint.vector(),
                                       .dx = out[3].view()};
        status = run(table.head_backward, back, 2);
        EXPECT_TRUE(status.ok()) << status.error;
        const EmbeddingDesc rows_of = {.tokens = tokens, .table = weight, .y = out[4].view()};
        status = run(table.embedding, rows_of, 1);
        EXPECT_TRUE(status.ok()) << status.error;
        return out;
      };
      std::vector<Matrix> got = everything(w.view()), want = everything(plain.weight());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_TRUE(same_bits(got[i], want[i]))
            << format_layout(format).name << " " << dtype_name(type) << " output " << i;
      }
      EXPECT_NE(got[2].get(2, 7), 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, FormatPath, testing::ValuesIn(cpu::available_isas()), isa_label);

}  // namespace
}  // namespace hone
