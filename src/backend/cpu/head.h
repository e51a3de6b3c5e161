// What the head's forward and backward share. Legend: R rows of a block, S entries of a vocabulary
// slice, D hidden, V vocabulary.
#pragma once

#include "backend/cpu/rows.h"

namespace hone::cpu {

// Rows a block. The weight is read once a block, so more is better, but the block's logits,
// probabilities and dx are to stay near: with a vocabulary chunk of 1024, 1024 rows take 4 MB for
// the logits. Measured with D = 896, bf16 and dx, 1024 rows in all: 512 rows a block take 1.2 times
// as long; 2048 a block are no faster.
constexpr int64_t kHeadRows = 1024;
constexpr double kLn2 = 0.69314718055994530942;

inline View matrix(void* data, DType dtype, int64_t rows, int64_t cols, int64_t stride) {
  View v;
  v.data = data;
  v.dtype = dtype;
  v.rank = 2;
  v.shape[0] = rows;
  v.shape[1] = cols;
  v.stride[0] = stride;
  v.stride[1] = 1;
  return v;
}
inline View rows_of(const View& v, int64_t begin, int64_t rows) {
  View s = v;
  s.data =
      static_cast<char*>(v.data) + begin * v.stride[0] * static_cast<int64_t>(dtype_size(v.dtype));
  s.shape[0] = rows;
  return s;
}

// Logits, and the statistics of a row, are fp64 for fp64 x and else fp32.
inline DType head_dtype(const View& x) { return x.dtype == DType::f64 ? DType::f64 : DType::f32; }

inline double get_float(const View& v, int64_t i) {
  return v.dtype == DType::f64 ? v.as<double>()[i * v.stride[0]]
                               : static_cast<double>(v.as<float>()[i * v.stride[0]]);
}
inline void put_float(const View& v, int64_t i, double value) {
  if (v.dtype == DType::f64) {
    v.as<double>()[i * v.stride[0]] = value;
  } else {
    v.as<float>()[i * v.stride[0]] = static_cast<float>(value);
  }
}
inline double get_float(Span s, int64_t i) {
  return s.dtype == DType::f64 ? static_cast<double*>(s.data)[i]
                               : static_cast<double>(static_cast<float*>(s.data)[i]);
}
inline void put_float(Span s, int64_t i, double value) {
  if (s.dtype == DType::f64) {
    static_cast<double*>(s.data)[i] = value;
  } else if (s.dtype == DType::f32) {
    static_cast<float*>(s.data)[i] = static_cast<float>(value);
  } else {
    static_cast<bf16*>(s.data)[i] = bf16(static_cast<float>(value));
  }
}

inline Status check_head(Isa isa, const View& x, const WeightView& w, const View& targets,
                         const View& inv_temperature) {
  if (x.rank != 2 || w.none() || x.shape[1] != w.cols || !last_dim_ok(x)) {
    return {"head: x is [R, D] and the weight [V, D]"};
  }
  if (!is_float(isa, x)) return {"head: dtype of x"};
  if (!targets.none()) {
    if (targets.rank != 1 || targets.shape[0] != x.shape[0] || targets.dtype != DType::i32) {
      return {"head: targets are [R] i32"};
    }
    for (int64_t r = 0; r < targets.shape[0]; ++r) {
      const int32_t t = targets.as<int32_t>()[r * targets.stride[0]];
      if (t < 0 || t >= w.rows) return {"head: a target is outside the vocabulary"};
    }
  }
  if (!inv_temperature.none() &&
      (inv_temperature.rank != 1 || inv_temperature.shape[0] != x.shape[0] ||
       inv_temperature.dtype != DType::f32)) {
    return {"head: inv_temperature is [R] f32"};
  }
  return {};
}
// None, or [R] of the statistics' dtype.
inline bool row_stat_ok(const View& v, const View& x) {
  return v.none() || (v.rank == 1 && v.shape[0] == x.shape[0] && v.dtype == head_dtype(x));
}
inline double inv_t_of(const View& inv_temperature, int64_t r) {
  return inv_temperature.none() ? 1.0 : get_float(inv_temperature, r);
}

// A bump allocator over the scratch; with null base it only counts.
struct Bump {
  char* base;
  size_t used = 0;
  void* take(size_t bytes) {
    void* p = base == nullptr ? nullptr : base + used;
    used += (bytes + 63) / 64 * 64;
    return p;
  }
};

}  // namespace hone::cpu
