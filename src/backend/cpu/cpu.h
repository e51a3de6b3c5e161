// The CPU device: instruction paths, chosen at run time, and their kernel tables.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "backend/table.h"

namespace hone::cpu {

// Each path needs all of the ones before it. reference is the composite: plain loops that
// accumulate in f64 and the only one that takes f64 tensors; scalar is the same code accumulating
// in fp32.
enum class Isa : uint8_t { reference, scalar, avx2, avx512, avx512bf16, amx };

std::string_view isa_name(Isa isa);  // "reference", "scalar", "avx2", "avx512", "avx512bf16", "amx"
bool isa_available(
    Isa isa);  // on this processor and kernel (AMX asks for permission once a process)
std::vector<Isa> available_isas();  // ascending
// The fastest of them by the processor's vendor ("GenuineIntel", "AuthenticAMD"): the last, but
// that the bf16 dot products of Intel's vector units do half of what their multiply-adds in fp32 do
// (measured: 119 and 239 GFLOP/s a core), those of AMD's twice as much.
Isa best_of(std::span<const Isa> available, std::string_view vendor);
Isa best_isa();  // of this machine
// The path to use: HONE_ISA if set (UserError if unknown or not available), else the best.
Isa choose_isa();
Format compact_format(Isa isa);  // KernelPath.compact

DeviceProps device_props(int threads);  // cache sizes of this machine
KernelTable kernel_table(Isa isa);

// Families: each gives its kernels for a path (a path may reuse a lower one's kernel).
Kernel<GemmDesc> gemm(Isa isa);
Kernel<GemmDwDesc> gemm_dw(Isa isa);
Kernel<AttentionDesc> attention(Isa isa);
Kernel<AttentionBackwardDesc> attention_backward(Isa isa);
Kernel<RmsNormDesc> rms_norm(Isa isa);
Kernel<RmsNormBackwardDesc> rms_norm_backward(Isa isa);
Kernel<RopeTableDesc> rope_table(Isa isa);
Kernel<RopeDesc> rope(Isa isa);
Kernel<SwigluDesc> swiglu(Isa isa);
Kernel<SwigluBackwardDesc> swiglu_backward(Isa isa);
Kernel<EmbeddingDesc> embedding(Isa isa);
Kernel<EmbeddingBackwardDesc> embedding_backward(Isa isa);
Kernel<GatherRowsDesc> gather_rows(Isa isa);
Kernel<ScatterRowsDesc> scatter_rows(Isa isa);
Kernel<AddDesc> add(Isa isa);
Kernel<ConvertDesc> convert(Isa isa);
Kernel<SumHeadsDesc> sum_heads(Isa isa);
Kernel<ZeroDesc> zero(Isa isa);
Kernel<DropoutDesc> dropout(Isa isa);
Kernel<RouteDesc> route(Isa isa);
Kernel<RouteBackwardDesc> route_backward(Isa isa);
Kernel<CombineDesc> combine(Isa isa);
Kernel<CombineBackwardDesc> combine_backward(Isa isa);
Kernel<HeadDesc> head(Isa isa);
Kernel<HeadBackwardDesc> head_backward(Isa isa);
Kernel<AdamWDesc> adamw(Isa isa);
Kernel<SumSquaresDesc> sum_squares(Isa isa);

}  // namespace hone::cpu
