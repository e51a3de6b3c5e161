#include "backend/cpu/cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace hone::cpu {
namespace {

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false;
};

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

Features detect() {
  Features f;
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

const Features& features() {
  static const Features f = detect();
  return f;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  constexpr std::string_view names[] = {"reference", "scalar",     "avx2",
                                        "avx512",    "avx512bf16", "amx"};
  return names[static_cast<int>(isa)];
}

bool isa_available(Isa isa) {
  switch (isa) {
    case Isa::reference:
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return features().avx2;
    case Isa::avx512:
      return features().avx512;
    case Isa::avx512bf16:
      return features().avx512bf16;
    case Isa::amx:
      return features().amx;
  }
  return false;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> all;
  for (int i = 0; i <= static_cast<int>(Isa::amx); ++i) {
    if (isa_available(static_cast<Isa>(i))) all.push_back(static_cast<Isa>(i));
  }
  return all;
}

bool takes_bf16t(Isa isa) { return isa >= Isa::avx2; }

Isa best_of(std::span<const Isa> available, std::string_view vendor) {
  const Isa last = available.back();
  return last == Isa::avx512bf16 && vendor == "GenuineIntel" ? Isa::avx512 : last;
}

Isa best_isa() {
  unsigned a = 0, name[3] = {};
  __get_cpuid(0, &a, &name[0], &name[2], &name[1]);
  char vendor[12];
  std::memcpy(vendor, name, sizeof vendor);
  return best_of(available_isas(), {vendor, sizeof vendor});
}

Isa choose_isa() {
  const char* forced = std::getenv("HONE_ISA");
  if (forced == nullptr || *forced == '\0') return best_isa();
  std::string known;
  for (Isa isa : available_isas()) {
    if (isa_name(isa) == forced) return isa;
    known += (known.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  user_error("HONE_ISA", "\"{}\" is not an instruction path of this machine; use one of: {}",
             forced, known);
}

DeviceProps device_props(int threads) {
  DeviceProps p;
  p.threads = threads;
  const auto cache = [](int name, size_t otherwise) {
    const long n = sysconf(name);
    return n > 0 ? static_cast<size_t>(n) : otherwise;
  };
  p.l1_bytes = cache(_SC_LEVEL1_DCACHE_SIZE, p.l1_bytes);
  p.l2_bytes = cache(_SC_LEVEL2_CACHE_SIZE, p.l2_bytes);
  p.l3_bytes = cache(_SC_LEVEL3_CACHE_SIZE, p.l3_bytes);
  return p;
}

KernelTable kernel_table(Isa isa) {
  KernelTable t;
#define HONE_KERNEL(name, Desc) t.name = name(isa);
#include "backend/kernels.def"
#undef HONE_KERNEL
  return t;
}

}  // namespace hone::cpu
