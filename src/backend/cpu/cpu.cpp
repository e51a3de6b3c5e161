#include "backend/cpu/cpu.h"

#include <unistd.h>

#include <cstdlib>
#include <string>

#include "backend/backend.h"
#include "backend/cpu/features.h"

namespace hone::cpu {
namespace {

const Features& features() {
  static const Features f = detect_features();
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

Format compact_format(Isa isa) { return isa >= Isa::avx2 ? Format::bf16t : Format::bf16; }

Isa best_of(std::span<const Isa> available, std::string_view vendor) {
  const Isa last = available.back();
  return last == Isa::avx512bf16 && vendor == "GenuineIntel" ? Isa::avx512 : last;
}

Isa best_isa() { return best_of(available_isas(), features().vendor); }

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

namespace hone {

const Backend& cpu_backend() {
  static constexpr Backend backend{
      .name = "cpu",
      .path =
          [](DType compute) {
            const cpu::Isa isa = compute == DType::f64 ? cpu::Isa::reference : cpu::choose_isa();
            return KernelPath{.name = cpu::isa_name(isa),
                              .kernels = cpu::kernel_table(isa),
                              .compact = cpu::compact_format(isa)};
          },
      .props = cpu::device_props};
  return backend;
}

}  // namespace hone
