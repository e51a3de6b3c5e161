// A kind of device as whoever makes one asks for it. Nothing outside of backend/ names a kind's
// folder.
#pragma once

#include "backend/table.h"

namespace hone {

// The kernels that compute in a dtype.
struct KernelPath {
  std::string_view name;  // "avx2", ...
  KernelTable kernels;
  // What products along the columns read bf16 weights in fastest, without loss; bf16: as they are.
  Format compact = Format::bf16;
};

struct Backend {
  const char* name;  // "cpu"
  // UserError: the environment (HONE_ISA) asks for a path that isn't known or not there.
  KernelPath (*path)(DType compute);
  DeviceProps (*props)(int threads);  // of this machine
};

const Backend& cpu_backend();

}  // namespace hone
