// Counter-based randomness: every random number is a function of (seed, purpose, ids), so nothing
// depends on packing, recomputation, batch size, threads or ranks, and there is no generator state
// to save. Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace hone {

// What a number is for; part of the key, so that uses never share a stream.
enum class Purpose : uint32_t { dropout = 1, sample = 2, init = 3, shuffle = 4, test = 5 };

// Four 32-bit words for one counter.
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter,
                                      std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * counter[0];
    const uint64_t p1 = 0xCD9E8D57ull * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// Words of (seed, purpose, a, b): a and b are 64-bit identities (a parameter's name hash, a sample
// key, a position, an element index ...). The purpose is folded into the key.
inline std::array<uint32_t, 4> random_words(uint64_t seed, Purpose purpose, uint64_t a,
                                            uint64_t b) {
  const std::array<uint32_t, 2> key = {
      static_cast<uint32_t>(seed) ^ (static_cast<uint32_t>(purpose) * 0x9E3779B1u),
      static_cast<uint32_t>(seed >> 32)};
  return philox({static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32), static_cast<uint32_t>(b),
                 static_cast<uint32_t>(b >> 32)},
                key);
}

// Uniform in [0, 1), 24 bits.
inline float uniform_float(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }
// Uniform in [0, 1), 53 bits.
inline double uniform_double(uint32_t hi, uint32_t lo) {
  return static_cast<double>(((static_cast<uint64_t>(hi) << 32) | lo) >> 11) * 0x1p-53;
}
// Standard normal from two words (Box-Muller).
inline double normal_double(uint32_t w0, uint32_t w1) {
  const double u = (static_cast<double>(w0) + 1.0) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) *
         std::cos(6.283185307179586 * static_cast<double>(w1) * 0x1p-32);
}

// FNV-1a, for identities made of names.
constexpr uint64_t hash_name(const char* s, uint64_t n) {
  uint64_t h = 1469598103934665603ull;
  for (uint64_t i = 0; i < n; ++i) h = (h ^ static_cast<uint8_t>(s[i])) * 1099511628211ull;
  return h;
}

}  // namespace hone
