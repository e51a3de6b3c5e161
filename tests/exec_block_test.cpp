// run_block: a block's further results take part in the tape, under both policies with the same
// bits.
#include <gtest/gtest.h>

#include "backend/desc/elementwise.h"
#include "exec/machine.h"
#include "exec/memory.h"
#include "ops/linear.h"

namespace hone {
namespace {

constexpr int64_t kRows = 5, kWidth = 6;

struct Gradients {
  std::vector<double> dx, dw, dv;
};

std::vector<float> numbers(int64_t n, int seed) {
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i)
    out.push_back(0.25f * static_cast<float>((i * 7 + seed * 13) % 11) - 1.0f);
  return out;
}

// y = x Wᵀ + x, aux = x Vᵀ; gradients dy and daux of a loss of which one may have no part.
Gradients run(BlockPolicy policy, bool of_x, bool of_aux) {
  Machine machine({.threads = 1});
  ParamStore store;
  Context ctx{.device = &machine.device(DType::f32),
              .params = &store,
              .dtype = DType::f32,
              .policy = policy};
  const auto matrix = [&](const char* name) {
    return store.add({.name = name, .shape = {kWidth, kWidth}, .unit = 1, .trainable = true});
  };
  const ParamId w = matrix("w"), v = matrix("v");
  store.own_trainable(machine.arena());
  write(*ctx.device, store.value(w), 0, numbers(kWidth * kWidth, 1));
  write(*ctx.device, store.value(v), 0, numbers(kWidth * kWidth, 2));
  store.allocate_gradients(machine.arena());
  for (const ParamId id : {w, v}) zero(ctx, store.grad(id));
  const auto filled = [&](int seed) {
    const Tensor t = ctx.empty(DType::f32, {kRows, kWidth});
    write(*ctx.device, t, 0, numbers(kRows * kWidth, seed));
    return t;
  };
  Tape tape;
  ctx.tape = &tape;
  Tensor x = filled(3);
  x.set_slot(tape.new_slot());
  const BlockOut out = run_block(ctx, 1, x, [&](Context& c, const Tensor& x) -> BlockOut {
    const ops::LinearParams first{.weight = w}, second{.weight = v};
    const Tensor aux = ops::linear(c, {&second, 1}, x);
    return {ops::linear(c, {&first, 1}, x, x, {}, /*last=*/true), {aux}};
  });
  EXPECT_EQ(out.aux.size(), 1u);
  if (of_x) tape.assign(out.x.slot(), filled(4));
  if (of_aux) tape.assign(out.aux.at(0).slot(), filled(5));
  tape.backward();
  const Tensor dx = tape.take(x.slot());
  return {dx.defined() ? read(ctx, dx, 0) : std::vector<double>{}, read(ctx, store.grad(w), 0),
          read(ctx, store.grad(v), 0)};
}

TEST(RunBlock, FurtherResultsHaveGradients) {
  for (const auto& [of_x, of_aux] : {std::pair(true, true), {true, false}, {false, true}}) {
    const Gradients kept = run(BlockPolicy::keep, of_x, of_aux);
    const Gradients again = run(BlockPolicy::recompute, of_x, of_aux);
    EXPECT_EQ(kept.dx, again.dx);
    EXPECT_EQ(kept.dw, again.dw);
    EXPECT_EQ(kept.dv, again.dv);
    const std::vector<double> zeros(kWidth * kWidth);
    EXPECT_EQ(kept.dw != zeros, of_x);
    EXPECT_EQ(kept.dv != zeros, of_aux);
  }
  EXPECT_TRUE(run(BlockPolicy::recompute, false, false).dx.empty());
}

// The sum of both parts is what both together give.
TEST(RunBlock, GradientsOfTheInputAdd) {
  const Gradients both = run(BlockPolicy::recompute, true, true);
  const Gradients x = run(BlockPolicy::recompute, true, false);
  const Gradients aux = run(BlockPolicy::recompute, false, true);
  for (size_t i = 0; i < both.dx.size(); ++i) EXPECT_NEAR(both.dx[i], x.dx[i] + aux.dx[i], 1e-5);
}

}  // namespace
}  // namespace hone
