// gcc 12 takes the undefined operands of its own intrinsics for our mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <utility>

#include "backend/cpu/gemm_tile.h"

namespace hone::cpu {
namespace {
#include "backend/cpu/gemm_vec.inl"
//
#include "backend/cpu/gemm_narrow.inl"
}  // namespace

extern const GemmNarrowPath kGemmNarrowAvx2;
const GemmNarrowPath kGemmNarrowAvx2 = {nullptr, panel_narrow};

}  // namespace hone::cpu
