// A device as ops see it.
#pragma once

#include "backend/backend.h"
#include "tensor/arena.h"

namespace hone {

// meta: shapes only; kernels of the target's table are asked for scratch, saved state and cost,
// never run.
struct Device {
  KernelTable table;
  DeviceProps props;
  Arena* arena = nullptr;
  ThreadPool* pool = nullptr;
  bool meta = false;
};

}  // namespace hone
