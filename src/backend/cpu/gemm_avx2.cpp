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
#include "backend/cpu/gemm_squares.inl"
//
#include "backend/cpu/gemm_narrow.inl"
}  // namespace

extern const GemmPath kGemmAvx2, kGemmAvx2Turned, kGemmAvx2Expanded, kGemmAvx2Squares;
const GemmPath kGemmAvx2 = {prepare, panel};
const GemmPath kGemmAvx2Turned = {prepare_turned, panel_turned};
const GemmPath kGemmAvx2Expanded = {prepare, panel_expanded};
const GemmPath kGemmAvx2Squares = {prepare, panel_squares};

extern const GemmNarrowPath kGemmNarrowAvx2;
const GemmNarrowPath kGemmNarrowAvx2 = {nullptr, panel_narrow};

}  // namespace hone::cpu
