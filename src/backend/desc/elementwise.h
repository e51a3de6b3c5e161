// RoPE, gated activations and the small rest. Legend: T rows, H heads, D head dim or features, F
// intermediate size, R gathered rows. Arithmetic in fp32 (f64 for f64), one rounding to the
// output's dtype. Views may be strided unless said.
#pragma once

#include "tensor/view.h"

namespace hone {

// table[T, D] f32: scale cos(angle) in [0, D/2), scale sin(angle) in [D/2, D); angle = positions[t]
// * inv_freq[i], a product in fp32.
struct RopeTableDesc {
  View positions;  // [T] i32
  View inv_freq;   // [D / 2] f32
  View table;      // [T, D] f32 (f64 allowed)
  float scale = 1;
};

// Rotary embedding in the half-split layout of Hugging Face (Su et al., 2021): with x = [a | b], y
// = [a cos - b sin | b cos + a sin]. inverse: the transpose, for gradients. interleaved: a and b
// are the even and the odd columns (DeepSeek, GLM). y may be x.
struct RopeDesc {
  View x;      // [T, H, D]
  View table;  // [T, D]
  View y;      // [T, H, D]
  bool inverse = false;
  bool interleaved = false;
};

// y = silu(gate) * up (SwiGLU, Shazeer 2020).
struct SwigluDesc {
  View gate, up, y;  // [T, F]
};
// dgate, dup may be gate and up themselves.
struct SwigluBackwardDesc {
  View gate, up, dy, dgate, dup;  // [T, F]
};

// y[t] = table[tokens[t]]
struct EmbeddingDesc {
  View tokens;  // [T] i32, each in [0, rows)
  WeightView table;
  View y;  // [T, D]
};
// dtable[tokens[t]] += dy[t], in ascending t for each table row.
struct EmbeddingBackwardDesc {
  View tokens;
  View dy;      // [T, D]
  View dtable;  // [V, D] f32 (f64)
};

// y[r] = x[rows[r]]
struct GatherRowsDesc {
  View x;     // [T, D]
  View rows;  // [R] i32
  View y;     // [R, D], dtype of x
};
// x[rows[r]] = y[r] (accumulate: += ); rows are distinct. Other rows of x are left alone. Or, for
// all heads h, x[rows[r], h] = y[r, h].
struct ScatterRowsDesc {
  View y;  // [R, D] or [R, H, D]; x of the same rank
  View rows;
  View x;
  bool accumulate = false;
};

// y = round(a + b); y may be a or b. Same shapes, any rank.
struct AddDesc {
  View a, b, y;
};

// y = alpha * x, converted to y's dtype; strided copy. Any of f32, bf16, f16 (input only), f64.
struct ConvertDesc {
  View x, y;
  float alpha = 1;
};

// y[t] = sum of x[t, h] over h in ascending order, rounded once.
struct SumHeadsDesc {
  View x;  // [T, H, D], D at most 1024
  View y;  // [T, D]
};

// y (+)= x * keep / (1 - p); keep is a function of (seed, salt, row_ids[t], feature) alone
// (core/rng.h, Purpose::dropout): word feature % 4 of random_words(seed, dropout, row_ids[t], salt
// + feature / 4), kept if uniform_float(word) >= p. y may be x.
struct DropoutDesc {
  View x;        // [T, K]
  View y;        // [T, K]
  View row_ids;  // [T] i64
  uint64_t seed = 0;
  uint64_t salt = 0;
  float p = 0;
  bool accumulate = false;
};

}  // namespace hone
