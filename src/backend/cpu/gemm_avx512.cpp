// gcc 12 takes the undefined operands of its own intrinsics for our mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <utility>

#include "backend/cpu/gemm_tile.h"

namespace hone::cpu {
namespace {
#include "backend/cpu/gemm_vec.inl"
//
#include "backend/cpu/gemm_f32.inl"
//
#include "backend/cpu/gemm_groups.inl"
//
#include "backend/cpu/gemm_prepare_f32.inl"
//
#include "backend/cpu/gemm_words.inl"
//
#include "backend/cpu/gemm_panel.inl"
//
#include "backend/cpu/gemm_turned.inl"
//
#include "backend/cpu/gemm_narrow.inl"
}  // namespace

extern const GemmPath kGemmAvx512, kGemmAvx512Turned, kGemmAvx512Expanded;
const GemmPath kGemmAvx512 = {prepare, panel};
const GemmPath kGemmAvx512Turned = {prepare_turned, panel_turned};
const GemmPath kGemmAvx512Expanded = {prepare, panel_expanded};

extern const GemmNarrowPath kGemmNarrowAvx512;
const GemmNarrowPath kGemmNarrowAvx512 = {nullptr, panel_narrow};

}  // namespace hone::cpu
