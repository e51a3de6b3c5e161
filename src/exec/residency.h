// Where values of parameters that the arena doesn't own are, and how they come to be at hand.
#pragma once

#include <cstdint>

namespace hone {

using ParamId = int32_t;

// A value as kernels take it. scale: of formats that have scales.
struct ParamValue {
  const void* data = nullptr;
  const void* scale = nullptr;
};

class Residency {
 public:
  virtual ~Residency() = default;
  // Called as a parameter's first lease begins, and after its last has ended; between the two the
  // value stays where it is. acquire may wait for a disk. UserError: a value nobody can use.
  virtual ParamValue acquire(ParamId id) = 0;
  virtual void release(ParamId id) = 0;
  // The values of a unit are asked for soon.
  virtual void prefetch(int unit) = 0;
};

}  // namespace hone
