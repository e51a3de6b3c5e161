// The optimizer's launches: one of each kernel a step, however many parameters.
#include "optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "exec/machine.h"
#include "exec/memory.h"
#include "train/pass.h"

namespace hone {
namespace {

class Launches : public Observer {
 public:
  void before(KernelId id, const char*, const Cost& cost) override {
    ++count[id];
    bytes[id] += cost.bytes;
  }
  void after() override {}
  std::map<KernelId, int> count;
  std::map<KernelId, double> bytes;
};

TEST(AdamW, AStepLaunchesEachKernelOnce) {
  constexpr int kParams = 1000;
  Machine machine({.threads = 2});
  ParamStore store;
  for (int i = 0; i < kParams; ++i) {
    store.add({.name = std::to_string(i) + (i % 3 == 0 ? ".bias" : ""),
               .shape = {1 + i % 50},
               .format = i % 2 == 0 ? Format::bf16 : Format::f32,
               .unit = i / 10,
               .trainable = true});
  }
  store.own_trainable(machine.arena());
  store.allocate_gradients(machine.arena());
  Context ctx{.device = &machine.device(DType::f32), .params = &store, .dtype = DType::f32};
  for (int i = 0; i < kParams; ++i) {
    const std::vector<float> ones(static_cast<size_t>(store.spec(i).numel()), 1);
    write(*ctx.device, store.value(i), 0, ones);
  }
  optim::AdamW adamw(ctx, {.weight_decay = 0.5, .decay_bias = false});

  Launches launches;
  ctx.observer = &launches;
  train::zero_gradients(ctx);
  EXPECT_EQ(launches.count, (std::map<KernelId, int>{{KernelId::zero, 1}}));
  double elements = 0, rounded = 0, squares = 0;
  for (int i = 0; i < kParams; ++i) {
    const auto n = store.spec(i).numel();
    write(*ctx.device, store.grad(i), 0,
          std::vector<float>(static_cast<size_t>(n), static_cast<float>(i)));
    elements += static_cast<double>(n);
    if (i % 2 == 0) rounded += static_cast<double>(n);
    squares += static_cast<double>(n * i) * i;
  }
  EXPECT_EQ(launches.bytes[KernelId::zero], 4 * elements);

  launches = {};
  EXPECT_EQ(optim::gradient_norm(ctx), std::sqrt(squares));  // sums of integers
  adamw.step(ctx, 0.25, 0, 1);
  EXPECT_EQ(launches.count,
            (std::map<KernelId, int>{
                {KernelId::zero, 1}, {KernelId::sum_squares, 1}, {KernelId::adamw, 1}}));
  EXPECT_EQ(launches.bytes[KernelId::adamw], 28 * elements + 2 * rounded);
  // no gradient is left of a scale of 0, so all that acts is the decay: 1 - 0.25 * 0.5
  for (int i = 0; i < kParams; ++i) {
    for (const double v : read(ctx, store.value(i), 0)) ASSERT_EQ(v, i % 3 == 0 ? 1 : 0.875) << i;
  }
}

}  // namespace
}  // namespace hone
