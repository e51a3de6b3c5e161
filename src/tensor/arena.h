// Where tensors live: one reserved range of addresses, first fit, so that the high-water mark is
// the peak resident size. A simulated arena runs the same policy on addresses that don't exist:
// what it predicts counts fragmentation too.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>

namespace hone {

enum class MemoryKind : uint8_t { weights, adapters, gradients, optimizer, activations, workspace };
constexpr int kMemoryKinds = 6;
constexpr std::string_view memory_kind_name(MemoryKind k) {
  constexpr std::string_view names[] = {"weights",         "adapters",    "gradients",
                                        "optimizer state", "activations", "workspace"};
  return names[static_cast<int>(k)];
}

struct ArenaStats {
  size_t in_use = 0;
  size_t peak_in_use = 0;
  size_t high_water = 0;  // bytes of the range ever touched: what stays resident
  std::array<size_t, kMemoryKinds> by_kind{};          // in use now
  std::array<size_t, kMemoryKinds> by_kind_at_peak{};  // when in_use was at its peak
};

// Used by one thread at a time (a rank's main thread; kernels allocate nothing).
class Arena {
 public:
  // Real memory: reserves address space and lets pages come on first touch. limit 0: none; past it
  // allocate() throws RuntimeError. prefault_huge: ask for huge pages.
  static Arena real(size_t limit = 0);
  static Arena simulated(size_t limit = 0);
  Arena(Arena&&) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  // Offset of a 64-byte aligned block (page aligned from 64 KiB on). bytes 0 gives a valid offset
  // of an empty block.
  size_t allocate(size_t bytes, MemoryKind kind);
  void free(size_t offset, size_t bytes, MemoryKind kind);

  // Address of an offset; null when simulated.
  void* address(size_t offset) const { return base_ == nullptr ? nullptr : base_ + offset; }
  bool is_simulated() const { return base_ == nullptr; }
  const ArenaStats& stats() const { return stats_; }
  // Starts a new measurement of the peaks from what is in use now (high_water keeps).
  void reset_peak();
  void set_limit(size_t bytes) { limit_ = bytes; }

 private:
  Arena(std::byte* base, size_t capacity, size_t limit);
  static size_t rounded(size_t bytes);

  std::byte* base_ = nullptr;
  size_t capacity_ = 0;
  size_t limit_ = 0;
  size_t end_ = 0;                 // first byte never handed out
  std::map<size_t, size_t> free_;  // offset -> length, no two adjacent
  ArenaStats stats_;
};

}  // namespace hone
