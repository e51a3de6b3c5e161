// The chunks of many flat arrays, numbered one after the other, so that one loop over tasks covers
// a list.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace hone::cpu {

struct Chunk {
  size_t array;
  int64_t begin, size;  // elements
};

inline int64_t chunks_of(int64_t n, int64_t chunk) { return (n + chunk - 1) / chunk; }

// Of arrays with a member n, each cut into chunks of `chunk` elements and a rest.
template <class Array>
class Chunks {
 public:
  static size_t scratch_bytes(std::span<const Array> list) {
    return (list.size() + 1) * sizeof(int64_t);
  }
  // scratch: scratch_bytes(list), in use as long as this.
  Chunks(std::span<const Array> list, int64_t chunk, void* scratch)
      : list_(list), chunk_(chunk), first_(static_cast<int64_t*>(scratch)) {
    first_[0] = 0;
    for (size_t i = 0; i < list.size(); ++i) {
      first_[i + 1] = first_[i] + chunks_of(list[i].n, chunk);
      elements_ += list[i].n;
    }
  }
  int64_t count() const { return first_[list_.size()]; }
  // Of array i: [first(i), first(i + 1)).
  int64_t first(size_t i) const { return first_[i]; }
  // Of a chunk on average, at least 1.
  int64_t elements() const {
    return std::max<int64_t>(1, elements_ / std::max<int64_t>(1, count()));
  }
  Chunk operator[](int64_t c) const {
    const int64_t* after = std::upper_bound(first_, first_ + list_.size() + 1, c);
    const auto i = static_cast<size_t>(after - first_ - 1);
    const int64_t begin = (c - first_[i]) * chunk_;
    return {i, begin, std::min(chunk_, list_[i].n - begin)};
  }

 private:
  std::span<const Array> list_;
  int64_t chunk_;
  int64_t* first_;  // chunk of each array, and how many there are
  int64_t elements_ = 0;
};

}  // namespace hone::cpu
