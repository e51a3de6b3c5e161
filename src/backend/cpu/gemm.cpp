#include "backend/cpu/cpu.h"
#include "backend/cpu/gemm_check.h"

namespace hone::cpu {

Kernel<GemmDesc> gemm(Isa isa) { return gemm_plain(isa == Isa::reference); }
Kernel<GemmDwDesc> gemm_dw(Isa isa) { return gemm_dw_plain(isa == Isa::reference); }

}  // namespace hone::cpu
