// Parameters: what they are, where they live, and leases on them. Ops and tape nodes keep parameter
// ids, never weight pointers.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace hone {

using ParamId = int32_t;
constexpr ParamId kNoParam = -1;

// How a parameter is divided over ranks; the same row drives loading, saving, tensor and expert
// parallelism.
enum class Placement : uint8_t { replicate, column, row, expert, vocab };

struct ParamSpec {
  std::string name;             // as in the file it comes from and goes to
  std::vector<int64_t> shape;   // 1 or 2 dims; 2: [out, in]
  Format format = Format::f32;  // in memory
  Placement placement = Placement::replicate;
  int unit = 0;  // what is fetched and dropped together: a block's dense part, one expert
  bool trainable = false;
  bool adapter = false;  // belongs to an adapter, not to the base model
  int uses = 1;          // uses in one forward pass (tied embeddings: 2)

  int64_t numel() const {
    int64_t n = 1;
    for (int64_t e : shape) n *= e;
    return n;
  }
  size_t bytes() const { return static_cast<size_t>(numel()) * format_bits(format) / 8; }
};

class ParamStore;

// Views of a parameter, valid while the lease lives: a view of a lease that has no name doesn't
// compile. While there is one the parameter's value stays where it is (InternalError in who moves
// it). A lease must not outlive the store.
class Lease {
 public:
  Lease(Lease&& other) noexcept
      : weight_(other.weight_), view_(other.view_), pins_(std::exchange(other.pins_, nullptr)) {}
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Lease& operator=(Lease&&) = delete;
  ~Lease() {
    if (pins_ != nullptr) --*pins_;
  }

  const WeightView& weight() const& { return weight_; }  // 2 dims
  const View& view() const& { return view_; }  // 1 or 2 dims, contiguous; of plain formats
  void weight() const&& = delete;
  void view() const&& = delete;

 private:
  friend class ParamStore;
  explicit Lease(int* pins) : pins_(pins) { ++*pins_; }
  WeightView weight_;
  View view_;
  int* pins_;  // of the parameter
};

class ParamStore {
 public:
  // Names are unique: InternalError otherwise.
  ParamId add(ParamSpec spec);
  ParamId find(const std::string& name) const;  // kNoParam if absent
  int count() const { return static_cast<int>(entries_.size()); }
  const ParamSpec& spec(ParamId id) const { return entries_.at(static_cast<size_t>(id)).spec; }
  void set_trainable(ParamId id, bool on) {
    entries_.at(static_cast<size_t>(id)).spec.trainable = on;
  }
  void set_format(ParamId id, Format format);  // before it has a value

  // Where the value is. bind: memory of somebody else's (a mapped file) that outlives the store, in
  // the spec's format.
  void bind(ParamId id, const void* data);
  // own: a tensor of the arena, contents undefined (weights or adapters); returned for filling.
  Tensor own(ParamId id, Arena& arena);
  // The same of so many bytes of another format, whose layout is the filler's affair.
  Tensor own_as(ParamId id, Arena& arena, Format format, int64_t bytes);
  bool has_value(ParamId id) const;
  bool owned(ParamId id) const { return entries_.at(static_cast<size_t>(id)).value.defined(); }
  Tensor value(ParamId id) const;  // of an owned parameter

  Lease lease(ParamId id) const;

  // Counts changes of any value. Whoever writes values says so; what was computed from them
  // (generation's keys) is good for the version it was made with.
  uint64_t version() const { return version_; }
  void values_changed() { ++version_; }

  // The fp32 gradient of a trainable leaf (f64 for f64 parameters): allocated (contents undefined)
  // by allocate_gradients(), added to by deferred work.
  void allocate_gradients(Arena& arena);
  void release_gradients();
  const Tensor& grad(ParamId id) const;

  // All trainable ones, in id order.
  std::vector<ParamId> trainable() const;

 private:
  struct Entry {
    ParamSpec spec;
    const void* bound = nullptr;
    Tensor value;
    Tensor grad;
    mutable int pins = 0;  // leases that live
  };
  Entry& unpinned(ParamId id);

  uint64_t version_ = 0;
  std::deque<Entry> entries_;  // leases point into them
  std::unordered_map<std::string, ParamId> by_name_;
};

}  // namespace hone
