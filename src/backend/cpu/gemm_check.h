// What every path of gemm and gemm_dw shares on the host side: the contract's checks and the row
// ranges of groups.
#pragma once

#include "backend/desc/gemm.h"
#include "backend/kernel.h"

namespace hone::cpu {

Status check_gemm(const GemmDesc& d, bool f64_allowed);
Status check_gemm_dw(const GemmDwDesc& d, bool f64_allowed);

inline int64_t gemm_rows_begin(const int32_t* offsets, int group) {
  return offsets ? offsets[group] : 0;
}
inline int64_t gemm_rows_end(const int32_t* offsets, int group, int64_t rows) {
  return offsets ? offsets[group + 1] : rows;
}
// Output features and reduction length of a call.
inline int64_t gemm_n(const GemmDesc& d) { return d.y.shape[1]; }
inline int64_t gemm_k(const GemmDesc& d) { return d.x.shape[1]; }
inline int64_t gemm_rank(const GemmDesc& d) { return d.x2.none() ? 0 : d.x2.shape[1]; }

// Plain loops: sums in f64 (reference) or fp32 (scalar).
Kernel<GemmDesc> gemm_plain(bool f64);
Kernel<GemmDwDesc> gemm_dw_plain(bool f64);

Cost gemm_cost(const GemmDesc& d);
Cost gemm_dw_cost(const GemmDwDesc& d);

}  // namespace hone::cpu
