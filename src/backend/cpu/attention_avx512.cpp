// Attention with AVX-512: fp32 products; bf16 tensors are expanded.
#include <immintrin.h>

#include "backend/cpu/attention.h"

namespace hone::cpu {
namespace {

constexpr int kExp2Degree = 6;
#include "backend/cpu/attention_exp2.inc"
#include "backend/cpu/attention_vec512.inc"
// The order matters: vectors, products, attention.
#include "backend/cpu/attention_f32.inc"
#include "backend/cpu/attention_impl.inc"

}  // namespace

AttentionPath attention_avx512_path(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return path<Fp32Engine<float>>();
    case DType::bf16:
      return path<Fp32Engine<uint16_t>>();
    default:
      return {};
  }
}

}  // namespace hone::cpu
