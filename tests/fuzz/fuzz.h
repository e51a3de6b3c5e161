// What all fuzz targets share: an input may be refused with a UserError or a RuntimeError; anything
// else (another exception, a crash, a hang, unbounded memory) is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"

namespace hone::fuzz {

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Runs f; what it may throw counts as an answer.
template <class F>
bool accepted(F&& f) {
  try {
    f();
    return true;
  } catch (const UserError&) {
    return false;
  } catch (const RuntimeError&) {
    return false;
  }
}

// Stops the fuzzer: a reader let something through that its contract rules out.
inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

}  // namespace hone::fuzz
