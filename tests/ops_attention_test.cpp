// Heads as ranges of columns: where their gradients go, and what other columns get.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "exec/machine.h"
#include "exec/memory.h"
#include "ops/attention.h"

namespace hone {
namespace {

constexpr int64_t kRows = 5;

// q in a tensor of its own; k (size 6: 4 of each head's own, 2 of all) made beside v (size 3), as
// latent attention has them, with columns that nobody reads.
struct Bench {
  Machine machine{{.threads = 1}};
  ParamStore params;
  Tape tape;
  Context ctx;
  ops::AttentionPlan plan;
  Bench() {
    ctx.device = &machine.device(DType::f64);
    ctx.params = &params;
    ctx.dtype = DType::f64;
    plan.blocks = {{.row = 0}};
    plan.segments = {{.q_begin = 0, .q_len = kRows, .kv_len = kRows}};
  }
  Tensor tensor(const std::vector<double>& values, int64_t width) {
    const Tensor t = ctx.empty(DType::f64, {kRows, width});
    for (size_t i = 0; i < values.size(); ++i) t.view().as<double>()[i] = values[i];
    return t;
  }
};

constexpr int64_t kQWidth = 2 * 6 + 1, kKvWidth = 2 * (6 + 3) + 2;
const ops::HeadRange kQ = ops::dense_heads(1, 2, 6);
const ops::HeadRange kK{.begin = 0, .heads = 2, .stride = 9, .dim = 6},
    kV{.begin = 6, .heads = 2, .stride = 9, .dim = 3};

std::vector<double> values(int64_t n, int seed) {
  std::vector<double> x;
  for (int64_t i = 0; i < n; ++i) x.push_back(std::sin(static_cast<double>(i * 37 + seed)));
  return x;
}

// sum of out * weights
double loss(const std::vector<double>& q, const std::vector<double>& kv,
            std::vector<double>* dq = nullptr, std::vector<double>* dkv = nullptr) {
  Bench s;
  Tensor tq = s.tensor(q, kQWidth), tkv = s.tensor(kv, kKvWidth);
  if (dq != nullptr) {
    s.ctx.tape = &s.tape;
    tq.set_slot(s.tape.new_slot());
    tkv.set_slot(s.tape.new_slot());
  }
  const Tensor out = ops::attention(s.ctx, s.plan, {tq, kQ}, {tkv, kK}, {tkv, kV}, 0.7);
  const std::vector<double> weights = values(kRows * 6, 3), y = read(s.ctx, out, 0);
  double sum = 0;
  for (size_t i = 0; i < y.size(); ++i) sum += y[i] * weights[i];
  if (dq == nullptr) return sum;
  s.tape.assign(out.slot(), s.tensor(weights, 6));
  const int q_slot = tq.slot(), kv_slot = tkv.slot();
  s.tape.backward();
  *dq = read(s.ctx, s.tape.take(q_slot), 0);
  *dkv = read(s.ctx, s.tape.take(kv_slot), 0);
  return sum;
}

TEST(Attention, GradientsGoToTheColumnsOfTheirHeads) {
  std::vector<double> q = values(kRows * kQWidth, 1), kv = values(kRows * kKvWidth, 2);
  std::vector<double> dq, dkv;
  loss(q, kv, &dq, &dkv);
  const auto compare = [&](std::vector<double>& x, const std::vector<double>& dx, int64_t width,
                           const std::function<bool(int64_t)>& read_by_a_head) {
    for (size_t i = 0; i < x.size(); ++i) {
      const double before = x[i], h = 1e-5;
      x[i] = before + h;
      const double up = loss(q, kv);
      x[i] = before - h;
      const double down = loss(q, kv);
      x[i] = before;
      EXPECT_NEAR(dx[i], (up - down) / (2 * h), 1e-8) << i;
      const auto column = static_cast<int64_t>(i) % width;
      if (!read_by_a_head(column)) {
        EXPECT_EQ(dx[i], 0) << i;
      }
    }
  };
  compare(q, dq, kQWidth, [](int64_t c) { return c > 0; });
  compare(kv, dkv, kKvWidth, [](int64_t c) { return c < 18; });
}

TEST(Rope, RotatesTheRangesAloneAndBack) {
  Bench s;
  const std::vector<double> x = values(kRows * kKvWidth, 4);
  Tensor t = s.tensor(x, kKvWidth);
  s.ctx.tape = &s.tape;
  t.set_slot(s.tape.new_slot());
  const int slot = t.slot();
  std::vector<double> angles;
  for (int64_t r = 0; r < kRows; ++r)
    angles.insert(angles.end(),
                  {std::cos(0.3 * static_cast<double>(r)), std::sin(0.3 * static_cast<double>(r))});
  // the first two columns of each head of six
  const ops::HeadRange first_two{.begin = 4, .heads = 2, .stride = 9, .dim = 2};
  const Tensor y = ops::rope(s.ctx, {&first_two, 1}, s.tensor(angles, 2), std::move(t));
  const std::vector<double> rotated = read(s.ctx, y, 0);
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t column = i % kKvWidth, row = i / kKvWidth;
    const bool a = column == 4 || column == 13, b = column == 5 || column == 14;
    const double c = angles[2 * row], sine = angles[2 * row + 1];
    const double want = a ? x[i] * c - x[i + 1] * sine : b ? x[i] * c + x[i - 1] * sine : x[i];
    EXPECT_NEAR(rotated[i], want, 1e-15) << i;
  }
  s.tape.assign(y.slot(), s.tensor(rotated, kKvWidth));
  s.tape.backward();
  const std::vector<double> back = read(s.ctx, s.tape.take(slot), 0);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(back[i], x[i], 1e-14) << i;
}

}  // namespace
}  // namespace hone
