#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "backend/cpu/features.h"

namespace hone::cpu {
namespace {

uint64_t xgetbv0() {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}

// The kernel grants tile data on request, once a process (arch_prctl ARCH_REQ_XCOMP_PERM, feature
// 18).
bool request_amx() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

#ifdef HONE_EMULATE_AMX
constexpr bool kEmulateAmx = true;
#else
constexpr bool kEmulateAmx = false;
#endif

std::string read_vendor() {
  unsigned a = 0, name[3] = {};
  __get_cpuid(0, &a, &name[0], &name[2], &name[1]);
  char vendor[12];
  std::memcpy(vendor, name, sizeof vendor);
  return {vendor, sizeof vendor};
}

}  // namespace

Features detect_features() {
  Features f;
  f.vendor = read_vendor();
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool osxsave = c & (1u << 27), fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!osxsave) return f;
  const uint64_t xcr0 = xgetbv0();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  const bool ymm = (xcr0 & 6) == 6, zmm = (xcr0 & 0xe6) == 0xe6,
             tiles = (xcr0 & 0x60000) == 0x60000;
  f.avx2 = ymm && fma && f16c && (b & (1u << 5));
  f.avx512 =
      f.avx2 && zmm && (b & (1u << 16)) && (b & (1u << 17)) && (b & (1u << 30)) && (b & (1u << 31));
  const bool amx_bits = (d & (1u << 24)) && (d & (1u << 22));
  unsigned a1 = 0, b1, c1, d1;
  __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
  f.avx512bf16 = f.avx512 && (a1 & (1u << 5));
  f.amx = f.avx512bf16 && (kEmulateAmx || (tiles && amx_bits && request_amx()));
  return f;
}

}  // namespace hone::cpu
