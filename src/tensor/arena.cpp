#include "tensor/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace hone {
namespace {

constexpr size_t kSmall = 64;
constexpr size_t kPage = 4096;
constexpr size_t kPageFrom = 64 << 10;

}  // namespace

Arena::Arena(std::byte* base, size_t capacity, size_t limit)
    : base_(base), capacity_(capacity), limit_(limit) {}

Arena Arena::real(size_t limit) {
  // Address space only; a machine or a ulimit that refuses gets asked for less.
  for (size_t capacity = size_t{1} << 42; capacity >= size_t{1} << 28; capacity /= 2) {
    void* p = mmap(nullptr, capacity, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) continue;
    madvise(p, capacity, MADV_HUGEPAGE);
    return Arena(static_cast<std::byte*>(p), capacity, limit);
  }
  runtime_error("memory",
                "the system grants no 256 MiB of address space; raise the limit (ulimit -v)");
}

Arena Arena::simulated(size_t limit) { return Arena(nullptr, ~size_t{0} / 2, limit); }

Arena::Arena(Arena&& o) noexcept
    : base_(std::exchange(o.base_, nullptr)),
      capacity_(std::exchange(o.capacity_, 0)),
      limit_(o.limit_),
      end_(o.end_),
      free_(std::move(o.free_)),
      stats_(o.stats_) {}

Arena::~Arena() {
  if (base_ != nullptr) munmap(base_, capacity_);
}

size_t Arena::rounded(size_t bytes) {
  const size_t unit = bytes >= kPageFrom ? kPage : kSmall;
  return (std::max(bytes, size_t{1}) + unit - 1) / unit * unit;
}

size_t Arena::allocate(size_t bytes, MemoryKind kind) {
  const size_t n = rounded(bytes);
  const size_t align = n >= kPageFrom ? kPage : kSmall;
  size_t offset = ~size_t{0};
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    const size_t begin = (it->first + align - 1) / align * align;
    const size_t end = it->first + it->second;
    if (begin + n > end) continue;
    const size_t hole = it->first;
    free_.erase(it);
    if (begin > hole) free_[hole] = begin - hole;
    if (end > begin + n) free_[begin + n] = end - (begin + n);
    offset = begin;
    break;
  }
  if (offset == ~size_t{0}) {
    // The last hole may touch the end: grow it.
    size_t begin = end_;
    if (!free_.empty()) {
      const auto last = std::prev(free_.end());
      if (last->first + last->second == end_) {
        begin = last->first;
        free_.erase(last);
      }
    }
    const size_t start = (begin + align - 1) / align * align;
    const size_t new_end = start + n;
    if (new_end > capacity_ || (limit_ != 0 && new_end > limit_)) {
      if (end_ > begin) free_[begin] = end_ - begin;
      runtime_error("memory",
                    "{:.1f} MiB more are needed for {} beside {:.1f} MiB in use, past the limit of "
                    "{:.1f} MiB; use a "
                    "smaller --max_length or --micro_batch_tokens, turn on -g (recomputation), or "
                    "raise --memory",
                    static_cast<double>(n) / (1 << 20), memory_kind_name(kind),
                    static_cast<double>(stats_.in_use) / (1 << 20),
                    static_cast<double>(limit_ != 0 ? limit_ : capacity_) / (1 << 20));
    }
    if (start > begin) free_[begin] = start - begin;
    offset = start;
    end_ = new_end;
    stats_.high_water = std::max(stats_.high_water, end_);
  }
  stats_.in_use += n;
  stats_.by_kind[static_cast<size_t>(kind)] += n;
  if (stats_.in_use > stats_.peak_in_use) {
    stats_.peak_in_use = stats_.in_use;
    stats_.by_kind_at_peak = stats_.by_kind;
  }
  return offset;
}

void Arena::free(size_t offset, size_t bytes, MemoryKind kind) {
  const size_t n = rounded(bytes);
  stats_.in_use -= n;
  stats_.by_kind[static_cast<size_t>(kind)] -= n;
  auto [it, inserted] = free_.emplace(offset, n);
  HONE_CHECK(inserted, "block freed twice");
  if (const auto next = std::next(it);
      next != free_.end() && it->first + it->second == next->first) {
    it->second += next->second;
    free_.erase(next);
  }
  if (it != free_.begin()) {
    const auto previous = std::prev(it);
    if (previous->first + previous->second == it->first) {
      previous->second += it->second;
      free_.erase(it);
    }
  }
}

void Arena::reset_peak() {
  stats_.peak_in_use = stats_.in_use;
  stats_.by_kind_at_peak = stats_.by_kind;
}

}  // namespace hone
