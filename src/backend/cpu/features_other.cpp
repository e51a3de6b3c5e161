// Processors other than x86: the reference and scalar paths. The tables of the others are empty,
// for the linker; nothing gets to them, since isa_available() is false.
#include "backend/cpu/attention.h"
#include "backend/cpu/expand_fp8.h"
#include "backend/cpu/features.h"
#include "backend/cpu/gemm_tile.h"
#include "backend/cpu/rowops.h"

namespace hone::cpu {

Features detect_features() { return {}; }

extern const RowOps kRowOpsAvx2{}, kRowOpsAvx512{};
extern const ExpandFp8 kExpandFp8Avx2{}, kExpandFp8Avx512{};
extern const GemmPath kGemmAvx2{}, kGemmAvx512{}, kGemmAvx512Bf16{}, kGemmAmx{};
extern const GemmPath kGemmAvx2Turned{}, kGemmAvx512Turned{}, kGemmAvx512Bf16Turned{};
extern const GemmPath kGemmAvx2Expanded{}, kGemmAvx512Expanded{}, kGemmAvx512Bf16Expanded{};
extern const GemmPath kGemmAvx2Squares{};
extern const GemmNarrowPath kGemmNarrowAvx2{}, kGemmNarrowAvx512{}, kGemmNarrowAmx{};
extern const GemmStreamPath kGemmStreamAmx{};

AttentionPath attention_avx2_path(DType) { return {}; }
AttentionPath attention_avx512_path(DType) { return {}; }
AttentionPath attention_avx512bf16_path() { return {}; }
AttentionPath attention_amx_path() { return {}; }

}  // namespace hone::cpu
