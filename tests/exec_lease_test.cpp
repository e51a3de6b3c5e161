// Leases: views that are valid while they live, and the version of the values.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "exec/params.h"

namespace hone {
namespace {

template <class L>
concept ViewOfTemporary = requires(L lease) {
  std::move(lease).view();
};
template <class L>
concept WeightOfTemporary = requires(L lease) {
  std::move(lease).weight();
};
static_assert(!ViewOfTemporary<Lease> && !WeightOfTemporary<Lease>);
static_assert(!std::is_copy_constructible_v<Lease> && std::is_move_constructible_v<Lease>);

ParamId add_matrix(ParamStore& store, const char* name) {
  return store.add({.name = name, .shape = {2, 3}});
}

// Numbers of its own; counts what is asked of it.
class Elsewhere final : public Residency {
 public:
  ParamValue acquire(ParamId id) override {
    ++held[id];
    if (fails) throw UserError("weights", "these can't be used");
    return {.data = numbers};
  }
  void release(ParamId id) override { --held[id]; }
  void prefetch(int unit) override { fetched.push_back(unit); }
  float numbers[6] = {1, 2, 3, 4, 5, 6};
  std::map<ParamId, int> held;
  std::vector<int> fetched;
  bool fails = false;
};

TEST(Residency, IsAskedOnceForAllLeasesOfAValue) {
  Elsewhere elsewhere;
  ParamStore store;
  const ParamId id = add_matrix(store, "w");
  store.place(id, Format::f32, elsewhere);
  {
    const Lease a = store.lease(id), b = store.lease(id);
    EXPECT_EQ(a.view().data, elsewhere.numbers);
    EXPECT_EQ(b.weight().data, elsewhere.numbers);
    EXPECT_EQ(elsewhere.held[id], 1);
  }
  EXPECT_EQ(elsewhere.held[id], 0);
  store.prefetch(3);
  EXPECT_EQ(elsewhere.fetched, std::vector<int>{3});
  // a value that can't be had leaves nothing leased
  elsewhere.fails = true;
  EXPECT_THROW(store.lease(id), UserError);
  EXPECT_NO_THROW(store.place(id, Format::f32, elsewhere));
}

TEST(ParamStore, TrainedValuesAndGradientsOfAUnitLieInOneArray) {
  Arena arena = Arena::real(0);
  ParamStore store;
  std::vector<ParamId> ids;
  for (const int unit : {1, 2, 1})
    ids.push_back(store.add(
        {.name = std::to_string(ids.size()), .shape = {3, 7}, .unit = unit, .trainable = true}));
  store.own_trainable(arena);
  store.allocate_gradients(arena);
  const auto distance = [](const Tensor& a, const Tensor& b) {
    return b.view().as<float>() - a.view().as<float>();
  };
  EXPECT_EQ(distance(store.value(ids[0]), store.value(ids[2])), 32);  // 21, to a line of 64 bytes
  EXPECT_EQ(distance(store.grad(ids[0]), store.grad(ids[2])), 32);
  EXPECT_NE(distance(store.value(ids[0]), store.value(ids[1])), 32);
  EXPECT_EQ(store.value(ids[2]).dim(0), 3);
  EXPECT_EQ(store.value(ids[2]).dim(1), 7);
}

TEST(Lease, ALeasedValueStaysWhereItIs) {
  Elsewhere elsewhere;
  Arena arena = Arena::real(0);
  ParamStore store;
  const ParamId id = add_matrix(store, "w");
  store.own(id, arena, Format::f32);
  {
    const Lease lease = store.lease(id);
    const void* data = lease.view().data;
    add_matrix(store, "another one doesn't move it");
    EXPECT_THROW(store.own(id, arena, Format::f32), InternalError);
    EXPECT_THROW(store.place(id, Format::f32, elsewhere), InternalError);
    const Lease second = store.lease(id);
    EXPECT_EQ(second.view().data, data);
  }
  store.own(id, arena, Format::f32);  // the lease is over
}

TEST(Lease, AMovedLeasePinsOnce) {
  Arena arena = Arena::real(0);
  ParamStore store;
  const ParamId id = add_matrix(store, "w");
  store.own(id, arena, Format::f32);
  {
    Lease a = store.lease(id);
    const Lease b = std::move(a);
    EXPECT_THROW(store.own(id, arena, Format::f32), InternalError);
  }
  EXPECT_NO_THROW(store.own(id, arena, Format::f32));
}

TEST(ParamStore, ChangesOfValuesAreCounted) {
  Arena arena = Arena::real(0);
  ParamStore store;
  const ParamId id = add_matrix(store, "w");
  const uint64_t before = store.version();
  store.own(id, arena, Format::f32);
  EXPECT_GT(store.version(), before);
  const uint64_t owned = store.version();
  { const Lease lease = store.lease(id); }
  EXPECT_EQ(store.version(), owned);
  store.values_changed();
  EXPECT_GT(store.version(), owned);
}

}  // namespace
}  // namespace hone
