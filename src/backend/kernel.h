// What a kernel is: an entry of a device's table, addressed by a descriptor struct.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "tensor/view.h"

namespace hone {

// Facts of a device that kernels size themselves by. Pure data, so that a laptop can plan another
// machine.
struct DeviceProps {
  int threads = 1;
  size_t l1_bytes = 32 << 10;
  size_t l2_bytes = 1 << 20;
  size_t l3_bytes = 8 << 20;
};

// Handed to run(). scratch: 64-byte aligned, at least scratch_bytes() long, contents undefined; a
// kernel allocates nowhere else.
struct KernelCtx {
  ThreadPool* pool = nullptr;
  void* scratch = nullptr;
  size_t scratch_bytes = 0;
  const DeviceProps* props = nullptr;
};

// Work of one call: floating point operations (a multiply-add is two) and the
// fewest bytes that must move to and from memory.
struct Cost {
  double flops = 0;
  double bytes = 0;
};

// Shapes and dtypes of what a forward kernel leaves for its backward; nobody else looks inside.
struct SavedSpec {
  int count = 0;
  struct {
    DType dtype;
    int rank;
    int64_t shape[kMaxDims];
  } tensor[2];
};

// One line of kernels.def. A null run means: this device has no such kernel, use the composite.
// row_exact: a row's bits depend on that row's inputs and the weights alone, never on how many rows
// there are.
template <class Desc>
struct Kernel {
  Status (*run)(const KernelCtx&, const Desc&) = nullptr;
  size_t (*scratch_bytes)(const DeviceProps&, const Desc&) = nullptr;  // null: none
  SavedSpec (*saved)(const DeviceProps&, const Desc&) = nullptr;       // null: nothing
  Cost (*cost)(const Desc&) = nullptr;
  bool row_exact = false;
};

}  // namespace hone
