// The kernel table of a device: the only way from ops to kernels.
#pragma once

#include "backend/desc/attention.h"
#include "backend/desc/elementwise.h"
#include "backend/desc/gemm.h"
#include "backend/desc/head.h"
#include "backend/desc/norm.h"
#include "backend/desc/optim.h"
#include "backend/desc/route.h"
#include "backend/kernel.h"

namespace hone {

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
