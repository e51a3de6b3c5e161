// What this processor and kernel can run of the instruction paths. Each architecture has a file of
// its own: features_x86.cpp, features_other.cpp.
#pragma once

#include <string>

namespace hone::cpu {

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false;
  std::string vendor;  // as cpuid spells it; empty where there is none
};

Features detect_features();  // asks for AMX's permission, which lasts for the process

}  // namespace hone::cpu
