// The kernel table of a device: the only way from ops to kernels. Knows descriptors by name alone:
// who launches a kernel includes its descriptor's header.
#pragma once

#include "backend/kernel.h"

namespace hone {

#define HONE_KERNEL(name, Desc) struct Desc;
#include "backend/kernels.def"
#undef HONE_KERNEL

struct KernelTable {
#define HONE_KERNEL(name, Desc) Kernel<Desc> name;
#include "backend/kernels.def"
#undef HONE_KERNEL
};

enum class KernelId : uint8_t {
#define HONE_KERNEL(name, Desc) name,
#include "backend/kernels.def"
#undef HONE_KERNEL
};

constexpr const char* kernel_name(KernelId id) {
  constexpr const char* names[] = {
#define HONE_KERNEL(name, Desc) #name,
#include "backend/kernels.def"
#undef HONE_KERNEL
  };
  return names[static_cast<int>(id)];
}

}  // namespace hone
