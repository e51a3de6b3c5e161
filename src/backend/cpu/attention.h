// Inside of the CPU attention kernels: what attention.cpp (checks, tasks, scratch) hands to the
// code of an instruction path. Plain old data only, so that files compiled with -m flags may
// include it.
//
// Forward: Dao et al. 2022, "FlashAttention" (online softmax, arXiv:2205.14135), with fixed key
// blocks and chunks. Backward: two passes that recompute the probabilities from the saved maximum
// and sum; the first gives dq, the second dk and dv, so that every task writes rows of its own.
#pragma once

#include <cstdint>

#include "backend/desc/attention.h"

namespace hone::cpu {

constexpr int kAttentionMaxHeadDim = 576;
constexpr int kAttentionTileRows =
    32;  // (token, head) rows that the forward and dq passes work on at once
constexpr int kAttentionKeyGroup = 256;   // own keys of a dk/dv task
constexpr int kAttentionWholeKeys = 512;  // own keys of a segment whose gradients one task computes
constexpr int kAttentionDqKeys = 512;     // keys packed at once by the dq pass
constexpr int kAttentionQueryTile =
    64;  // (token, head) columns that the dk/dv pass works on at once

struct AttentionArgs {
  // [T or S, heads, D or E]: base and strides in elements of the token and head dims.
  struct Rows {
    void* data = nullptr;
    int64_t token = 0, head = 0;
  };
  Rows q, k, v, out, saved;  // saved: per row {maximum, 1 / sum}, data null at inference
  Rows dout, dq, dk, dv;     // backward only
  void* delta = nullptr;  // backward only: sum(dout * out) [T, H], written by the dq pass; f32, or
                          // f64 on the reference path
  const KeyBlock* blocks = nullptr;
  const AttentionSegment* segments = nullptr;
  int num_segments = 0;
  int heads = 0, group = 0, dim = 0, value_dim = 0;  // H, H / K, D, E
  double scale = 1;
};

// Buffers of one worker, 64-byte aligned; sizes in attention.cpp. P is D or E rounded up to 32; an
// element of a pack is 4 bytes (f32 paths) or 2.
struct AttentionBuffers {
  char* pack[5] =
      {};  // forward: k, v of a chunk, v of a block; dq: k, v, k again of kAttentionDqKeys keys;
           // the others: q, q, dout, dout of a query tile, and (whole) k transposed
  char* a[2] =
      {};  // left operands: q (and dout) of a row tile, or k and v of a key group or segment
  char* p[3] = {};   // probabilities and their gradients, kAttentionTileRows x 64; whole: gradients
                     // of a query tile, keys x 64
  float* s[2] = {};  // scores and their gradients, kAttentionTileRows x 64
  float* tile[2] = {};   // kAttentionTileRows x P; whole: dq of a query tile, P x 64
  float* state[2] = {};  // forward: running output of the task's rows, then maximum and sum; dq: dq
                         // of these; the others: dk, dv
};

struct AttentionTask {
  const AttentionSegment* segment = nullptr;
  int key_head = 0;
  int begin = 0, end = 0;  // forward and dq: queries of the segment; dk/dv: own keys of the
                           // segment, counted from q_begin
  AttentionBuffers buffers;
};

// The code of an instruction path for one dtype.
struct AttentionPath {
  void (*forward)(const AttentionArgs&, const AttentionTask&) = nullptr;
  void (*backward_dq)(const AttentionArgs&, const AttentionTask&) = nullptr;
  void (*backward_dkv)(const AttentionArgs&, const AttentionTask&) = nullptr;
  // All three for a segment of at most kAttentionWholeKeys keys, all its own and no one else's.
  // Null: the two passes serve.
  void (*backward_whole)(const AttentionArgs&, const AttentionTask&) = nullptr;
  int pack_bytes = 0;  // an element of a pack; 0: needs no buffers
};

AttentionPath attention_reference_path(DType dtype);  // f64, f32, bf16
AttentionPath attention_scalar_path(DType dtype);     // f32, bf16
AttentionPath attention_avx2_path(DType dtype);       // f32, bf16
AttentionPath attention_avx512_path(DType dtype);     // f32, bf16
AttentionPath attention_avx512bf16_path();            // bf16
AttentionPath attention_amx_path();                   // bf16

}  // namespace hone::cpu
