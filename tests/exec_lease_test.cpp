// Leases: views that are valid while they live, and the version of the values.
#include <gtest/gtest.h>

#include <type_traits>

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

TEST(Lease, ALeasedValueStaysWhereItIs) {
  Arena arena = Arena::real(0);
  ParamStore store;
  const ParamId id = add_matrix(store, "w");
  store.own(id, arena);
  {
    const Lease lease = store.lease(id);
    const void* data = lease.view().data;
    add_matrix(store, "another one doesn't move it");
    EXPECT_THROW(store.own(id, arena), InternalError);
    EXPECT_THROW(store.bind(id, nullptr), InternalError);
    const Lease second = store.lease(id);
    EXPECT_EQ(second.view().data, data);
  }
  store.own(id, arena);  // the lease is over
}

TEST(Lease, AMovedLeasePinsOnce) {
  Arena arena = Arena::real(0);
  ParamStore store;
  const ParamId id = add_matrix(store, "w");
  store.own(id, arena);
  {
    Lease a = store.lease(id);
    const Lease b = std::move(a);
    EXPECT_THROW(store.own(id, arena), InternalError);
  }
  EXPECT_NO_THROW(store.own(id, arena));
}

TEST(ParamStore, ChangesOfValuesAreCounted) {
  Arena arena = Arena::real(0);
  ParamStore store;
  const ParamId id = add_matrix(store, "w");
  const uint64_t before = store.version();
  store.own(id, arena);
  EXPECT_GT(store.version(), before);
  const uint64_t owned = store.version();
  { const Lease lease = store.lease(id); }
  EXPECT_EQ(store.version(), owned);
  store.values_changed();
  EXPECT_GT(store.version(), owned);
}

}  // namespace
}  // namespace hone
