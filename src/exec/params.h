// Parameters: what they are, where their values are, and leases on them. Ops and tape nodes keep
// parameter ids, never weight pointers.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "exec/residency.h"
#include "tensor/tensor.h"

namespace hone {

constexpr ParamId kNoParam = -1;

// How a parameter is divided over ranks.
enum class Placement : uint8_t { replicate, column, row, expert, vocab };

// What a parameter is, wherever its value lies.
struct ParamSpec {
  std::string name;            // as in the file it comes from and goes to
  std::vector<int64_t> shape;  // 1 or 2 dims; 2: [out, in]
  // Of a value that the run makes for itself (trained, converted); others keep what they have
  // (ParamStore::format).
  Format format = Format::f32;
  Placement placement = Placement::replicate;
  int unit = 0;  // what is fetched and dropped together: a block's dense part, one expert
  bool trainable = false;
  bool adapter = false;  // belongs to an adapter, not to the base model

  int64_t numel() const {
    int64_t n = 1;
    for (int64_t e : shape) n *= e;
    return n;
  }
};

// Bytes of a value of that shape in a format, scales included.
int64_t value_bytes(const std::vector<int64_t>& shape, Format format);

namespace detail {

struct ParamEntry {
  ParamId id = kNoParam;
  ParamSpec spec;
  Format format = Format::f32;  // of the value
  Residency* home = nullptr;    // where it is, or else:
  Tensor value;
  Tensor grad;
  mutable int pins = 0;   // leases that live
  mutable ParamValue at;  // while there are some

  void pin() const {
    if (pins == 0) at = home != nullptr ? home->acquire(id) : ParamValue{.data = value.view().data};
    ++pins;  // not before: acquire may throw
  }
  void unpin() const {
    if (--pins == 0 && home != nullptr) home->release(id);
  }
};

}  // namespace detail

// Views of a parameter, valid while the lease lives: a view of a lease that has no name doesn't
// compile. While there is one the parameter's value stays where it is (InternalError in who moves
// it). A lease must not outlive the store.
class Lease {
 public:
  Lease(Lease&& other) noexcept
      : weight_(other.weight_), view_(other.view_), entry_(std::exchange(other.entry_, nullptr)) {}
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Lease& operator=(Lease&&) = delete;
  ~Lease() {
    if (entry_ != nullptr) entry_->unpin();
  }

  const WeightView& weight() const& { return weight_; }  // 2 dims
  const View& view() const& { return view_; }  // 1 or 2 dims, contiguous; of plain formats
  void weight() const&& = delete;
  void view() const&& = delete;

 private:
  friend class ParamStore;
  explicit Lease(const detail::ParamEntry& entry) : entry_(&entry) { entry.pin(); }
  WeightView weight_;
  View view_;
  const detail::ParamEntry* entry_;
};

class ParamStore {
 public:
  ParamStore() = default;
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  // Names are unique: InternalError otherwise.
  ParamId add(ParamSpec spec);
  ParamId find(const std::string& name) const;  // kNoParam if absent
  int count() const;
  const ParamSpec& spec(ParamId id) const;
  void set_trainable(ParamId id, bool on);

  // Where the value is. place: at a residency's, which outlives the store's leases.
  void place(ParamId id, Format format, Residency& home);
  // own: a tensor of the arena in a plain format, contents undefined; returned for filling.
  Tensor own(ParamId id, Arena& arena, Format format);
  // The same of so many bytes of a format whose layout is the filler's affair.
  Tensor own_as(ParamId id, Arena& arena, Format format, int64_t bytes);
  // own() for all that is trained, in the spec's formats: a unit's values lie in one array, each at
  // a multiple of 64 bytes.
  void own_trainable(Arena& arena);
  bool owned(ParamId id) const;
  Tensor value(ParamId id) const;   // of an owned parameter
  Format format(ParamId id) const;  // of its value
  int64_t bytes(ParamId id) const;  // of its value

  Lease lease(ParamId id) const;
  // The unit's parameters are leased soon.
  void prefetch(int unit) const;

  // Counts changes of any value. Whoever writes values says so; what was computed from them
  // (generation's keys) is good for the version it was made with.
  uint64_t version() const { return version_; }
  void values_changed() { ++version_; }

  // The fp32 gradient of a trainable leaf (f64 for f64 parameters): allocated (contents undefined)
  // by allocate_gradients(), a unit's in one array as own_trainable(); added to by deferred work.
  void allocate_gradients(Arena& arena);
  void release_gradients();
  const Tensor& grad(ParamId id) const;

  // All trainable ones, in id order.
  std::vector<ParamId> trainable() const;

 private:
  detail::ParamEntry& entry(ParamId id) const;
  detail::ParamEntry& unpinned(ParamId id);

  uint64_t version_ = 0;
  std::deque<detail::ParamEntry> entries_;  // leases point into them
  std::unordered_map<std::string, ParamId> by_name_;
  std::vector<Residency*> homes_;
};

}  // namespace hone
