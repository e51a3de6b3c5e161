// Ops on heads as ranges of columns: gradients go to the columns that they are of, the others are
// zero or another reader's, and nothing that a caller keeps is changed.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "exec/machine.h"
#include "exec/memory.h"
#include "ops/attention.h"
#include "ops/block.h"

namespace hone {
namespace {

using ops::HeadRange;
using ops::Heads;

std::vector<float> numbers(int64_t n, int seed) {
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i)
    out.push_back(0.25f * static_cast<float>((i * 7 + seed * 13) % 11) - 1.0f);
  return out;
}

class OpsHeads : public ::testing::Test {
 protected:
  Tensor filled(int64_t rows, int64_t width, int seed, bool grad) {
    Tensor t = ctx_.empty(DType::f64, {rows, width});
    write(*ctx_.device, t, 0, numbers(rows * width, seed));
    if (grad) t.set_slot(tape_.new_slot());
    return t;
  }
  std::vector<double> values(const Tensor& t) { return read(ctx_, t, 0); }
  ParamId weight(int64_t n) {
    const ParamId w = store_.add(
        {.name = "w", .shape = {n}, .format = Format::f64, .unit = 0, .trainable = true});
    store_.own_trainable(machine_.arena());
    write(*ctx_.device, store_.value(w), 0, numbers(n, 4));
    store_.allocate_gradients(machine_.arena());
    zero(ctx_, store_.grad(w));
    return w;
  }
  // The gradients of inputs for dy, and dy * op(inputs) by central differences.
  void check(std::vector<Tensor*> inputs, const std::function<Tensor()>& op) {
    ctx_.tape = &tape_;
    const Tensor y = op();
    const std::vector<float> dy = numbers(y.numel(), 9);
    tape_.assign(y.slot(), filled(y.dim(0), y.dim(1), 9, false));
    // What is allocated from here on holds numbers.
    for (const int64_t n : {8, 16, 32, 64, 128, 256}) {
      std::vector<Tensor> dirt;
      for (int i = 0; i < 8; ++i) dirt.push_back(filled(1, n, 5, false));
    }
    tape_.backward();
    ctx_.tape = nullptr;
    const auto loss = [&] {
      const std::vector<double> v = values(op());
      double sum = 0;
      for (size_t i = 0; i < v.size(); ++i) sum += v[i] * static_cast<double>(dy[i]);
      return sum;
    };
    for (Tensor* x : inputs) {
      const std::vector<double> dx = values(tape_.take(x->slot()));
      ASSERT_EQ(dx.size(), static_cast<size_t>(x->numel()));
      double* at = reinterpret_cast<double*>(writable(*ctx_.device, x->view()).data());
      for (size_t i = 0; i < dx.size(); ++i) {
        const double was = at[i], step = 1e-5;
        at[i] = was + step;
        const double up = loss();
        at[i] = was - step;
        const double down = loss();
        at[i] = was;
        EXPECT_NEAR(dx[i], (up - down) / (2 * step), 1e-8) << i;  // measured below 1e-9
      }
    }
  }

  Machine machine_{{.threads = 1}};
  ParamStore store_;
  Tape tape_;
  Context ctx_{.device = &machine_.device(DType::f64), .params = &store_, .dtype = DType::f64};
};

// The ways to a latent head: a rotated part that all heads share joined to parts of their own.
TEST_F(OpsHeads, GradientsOfJoinedAndRotatedHeads) {
  Tensor x = filled(5, 4 + 3, 1, true), own = filled(5, 3 * (2 + 2), 2, true);
  const Tensor table = filled(5, 4, 3, false);
  const HeadRange shared{.begin = 3, .heads = 1, .stride = 4, .dim = 4};
  const HeadRange nope{.begin = 0, .heads = 3, .stride = 4, .dim = 2};
  for (const bool interleaved : {false, true}) {
    check({&x, &own}, [&] {
      const Tensor r = ops::rope(ctx_, {&shared, 1}, table, x, interleaved);
      return ops::join_heads(ctx_, {own, nope}, {r, shared});
    });
  }
}

// Both readers of one tensor write their own columns: the first zeroes what is the other's.
TEST_F(OpsHeads, GradientsOfTwoReaders) {
  Tensor x = filled(5, 7, 1, true);
  const ParamId w = weight(3);
  const HeadRange first{.begin = 0, .heads = 1, .stride = 3, .dim = 3};
  const HeadRange last{.begin = 4, .heads = 1, .stride = 3, .dim = 3};
  check({&x}, [&] {
    const Tensor n = ops::rms_norm(ctx_, w, 1e-3, Heads{x, first}, "norm");
    return ops::join_heads(ctx_, {n, first}, {x, last});
  });
}

TEST_F(OpsHeads, NormsOfSomeHeadsPassTheOthers) {
  Tensor x = filled(5, 9, 1, true);
  const ParamId w = weight(2);
  const ops::HeadNorm norms[] = {{ops::dense_heads(1, 2, 2), w}};
  check({&x}, [&] { return ops::head_norm(ctx_, norms, 1e-3, x); });
}

// rope changes memory only if nobody else can see it.
TEST_F(OpsHeads, RopeLeavesWhatTheCallerKeeps) {
  const Tensor table = filled(5, 4, 3, false);
  const HeadRange heads{.begin = 2, .heads = 1, .stride = 4, .dim = 4};
  Tensor x = filled(5, 6, 1, false);
  const std::vector<double> before = values(x);
  const Tensor y = ops::rope(ctx_, {&heads, 1}, table, x);
  EXPECT_EQ(values(x), before);
  const void* memory = x.view().data;
  const Tensor z = ops::rope(ctx_, {&heads, 1}, table, std::move(x));
  EXPECT_EQ(z.view().data, memory);
  EXPECT_EQ(values(z), values(y));
  EXPECT_NE(values(z), before);
  for (size_t i = 0; i < before.size(); ++i) {
    if (i % 6 < 2) {
      EXPECT_EQ(values(z)[i], before[i]);
    }
  }
}

}  // namespace
}  // namespace hone
