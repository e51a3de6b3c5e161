// Attention in plain loops, a row at a time: the reference path (f64 accumulation) and the scalar
// path (fp32).
#include <cmath>
#include <limits>
#include <type_traits>

#include "backend/cpu/attention.h"
#include "backend/desc/attention.h"

namespace hone::cpu {
namespace {

template <class T>
T load(const T& x) {
  return x;
}
float load(const bf16& x) { return static_cast<float>(x); }

// Value of a probability (or its gradient) as an operand of a product: in the tensors' dtype.
template <class T, class Acc>
Acc round_to(Acc x) {
  return static_cast<Acc>(load(static_cast<T>(x)));
}
template <>
double round_to<bf16, double>(double x) {
  return static_cast<float>(bf16(static_cast<float>(x)));
}
template <class T>
T store(double x) {
  return static_cast<T>(static_cast<std::conditional_t<sizeof(T) == 8, double, float>>(x));
}

// What saved holds for tensors of T.
template <class T>
using Saved = std::conditional_t<sizeof(T) == 8, double, float>;

template <class T>
T* at(const AttentionArgs::Rows& rows, int64_t token, int64_t head) {
  return static_cast<T*>(rows.data) + token * rows.token + head * rows.head;
}

int64_t key_row(const AttentionArgs& a, const AttentionSegment& s, int key) {
  const KeyBlock& b = a.blocks[s.first_block + key / kKeyBlock];
  const int i = key % kKeyBlock;
  return i < b.split ? b.row + i : b.row_after + (i - b.split);
}

template <class T, class Acc>
Acc dot(const T* a, const T* b, int n) {
  Acc sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<Acc>(load(a[i])) * static_cast<Acc>(load(b[i]));
  return sum;
}

// Online softmax state of a row.
template <class Acc>
struct State {
  Acc max = -std::numeric_limits<Acc>::infinity();
  Acc sum = 0;
  Acc out[kAttentionMaxHeadDim] = {};

  // Factor that takes values from maximum `from` to `to`; nothing summed yet means 0.
  static Acc factor(Acc from, Acc to) {
    return from == -std::numeric_limits<Acc>::infinity() ? Acc(0) : std::exp(from - to);
  }
};

template <class T, class Acc>
void forward_row(const AttentionArgs& a, const AttentionSegment& seg, int query, int head) {
  const int keys = seg.kv_len - seg.q_len + query + 1;
  const int64_t token = seg.q_begin + query;
  const T* q = at<T>(a.q, token, head);
  const int key_head = head / a.group;
  const Acc scale = static_cast<Acc>(a.scale);
  State<Acc> total;
  for (int chunk = 0; chunk < keys; chunk += kKeyChunk) {
    State<Acc> c;
    const int chunk_end = keys < chunk + kKeyChunk ? keys : chunk + kKeyChunk;
    for (int block = chunk; block < chunk_end; block += kKeyBlock) {
      const int n = chunk_end - block < kKeyBlock ? chunk_end - block : kKeyBlock;
      Acc p[kKeyBlock];
      Acc max = c.max;
      for (int j = 0; j < n; ++j) {
        p[j] = dot<T, Acc>(q, at<T>(a.k, key_row(a, seg, block + j), key_head), a.dim) * scale;
        if (!(p[j] <= max)) max = p[j];
      }
      const Acc keep = State<Acc>::factor(c.max, max);
      Acc sum = 0;
      for (int j = 0; j < n; ++j) {
        p[j] = std::exp(p[j] - max);
        sum += p[j];
        p[j] = round_to<T, Acc>(p[j]);
      }
      c.max = max;
      c.sum = c.sum * keep + sum;
      for (int d = 0; d < a.value_dim; ++d) c.out[d] *= keep;
      for (int j = 0; j < n; ++j) {
        const T* v = at<T>(a.v, key_row(a, seg, block + j), key_head);
        for (int d = 0; d < a.value_dim; ++d) c.out[d] += p[j] * static_cast<Acc>(load(v[d]));
      }
    }
    if (chunk == 0) {
      total = c;
      continue;
    }
    const Acc max = c.max <= total.max ? total.max : c.max;
    const Acc keep = State<Acc>::factor(total.max, max), add = State<Acc>::factor(c.max, max);
    total.max = max;
    total.sum = total.sum * keep + c.sum * add;
    for (int d = 0; d < a.value_dim; ++d) total.out[d] = total.out[d] * keep + c.out[d] * add;
  }
  const Acc inverse = 1 / total.sum;
  T* out = at<T>(a.out, token, head);
  for (int d = 0; d < a.value_dim; ++d) out[d] = store<T>(total.out[d] * inverse);
  if (a.saved.data != nullptr) {
    Saved<T>* saved = at<Saved<T>>(a.saved, token, head);
    saved[0] = static_cast<Saved<T>>(total.max);
    saved[1] = static_cast<Saved<T>>(inverse);
  }
}

// dS of one query row and key, without the scale; p: the probability.
template <class T, class Acc>
Acc score_gradient(const AttentionArgs& a, int64_t token, int head, int64_t row, Acc delta,
                   Acc& p) {
  const int key_head = head / a.group;
  const Acc s = dot<T, Acc>(at<T>(a.q, token, head), at<T>(a.k, row, key_head), a.dim);
  const Saved<T>* saved = at<Saved<T>>(a.saved, token, head);
  p = std::exp(s * static_cast<Acc>(a.scale) - static_cast<Acc>(saved[0])) *
      static_cast<Acc>(saved[1]);
  const Acc dp = dot<T, Acc>(at<T>(a.dout, token, head), at<T>(a.v, row, key_head), a.value_dim);
  return p * (dp - delta);
}

template <class T, class Acc>
void forward(const AttentionArgs& a, const AttentionTask& t) {
  for (int i = t.begin; i < t.end; ++i) {
    for (int g = 0; g < a.group; ++g) {
      forward_row<T, Acc>(a, *t.segment, i, t.key_head * a.group + g);
    }
  }
}

template <class T, class Acc>
void backward_dq(const AttentionArgs& a, const AttentionTask& t) {
  const AttentionSegment& seg = *t.segment;
  for (int i = t.begin; i < t.end; ++i) {
    const int64_t token = seg.q_begin + i;
    const int keys = seg.kv_len - seg.q_len + i + 1;
    for (int head = t.key_head * a.group; head < (t.key_head + 1) * a.group; ++head) {
      const Acc delta =
          dot<T, Acc>(at<T>(a.dout, token, head), at<T>(a.out, token, head), a.value_dim);
      static_cast<Acc*>(a.delta)[token * a.heads + head] = delta;
      Acc sum[kAttentionMaxHeadDim] = {};
      for (int j = 0; j < keys; ++j) {
        const int64_t row = key_row(a, seg, j);
        Acc p;
        const Acc ds = round_to<T, Acc>(score_gradient<T, Acc>(a, token, head, row, delta, p));
        const T* k = at<T>(a.k, row, t.key_head);
        for (int d = 0; d < a.dim; ++d) sum[d] += ds * static_cast<Acc>(load(k[d]));
      }
      T* dq = at<T>(a.dq, token, head);
      for (int d = 0; d < a.dim; ++d) dq[d] = store<T>(sum[d] * static_cast<Acc>(a.scale));
    }
  }
}

template <class T, class Acc>
void backward_dkv(const AttentionArgs& a, const AttentionTask& t) {
  const AttentionSegment& owner = *t.segment;
  for (int i = t.begin; i < t.end; ++i) {
    const int64_t row = owner.q_begin + i;
    const int position = owner.kv_len - owner.q_len + i;
    Acc dk[kAttentionMaxHeadDim] = {}, dv[kAttentionMaxHeadDim] = {};
    for (int s = 0; s < a.num_segments; ++s) {
      const AttentionSegment& seg = a.segments[s];
      if (position >= seg.kv_len || key_row(a, seg, position) != row) continue;
      const int before = seg.kv_len - seg.q_len;
      for (int head = t.key_head * a.group; head < (t.key_head + 1) * a.group; ++head) {
        for (int j = position > before ? position - before : 0; j < seg.q_len; ++j) {
          const int64_t token = seg.q_begin + j;
          const Acc delta = static_cast<const Acc*>(a.delta)[token * a.heads + head];
          Acc p;
          const Acc ds = round_to<T, Acc>(score_gradient<T, Acc>(a, token, head, row, delta, p));
          p = round_to<T, Acc>(p);
          const T* q = at<T>(a.q, token, head);
          const T* dout = at<T>(a.dout, token, head);
          for (int d = 0; d < a.dim; ++d) dk[d] += ds * static_cast<Acc>(load(q[d]));
          for (int d = 0; d < a.value_dim; ++d) dv[d] += p * static_cast<Acc>(load(dout[d]));
        }
      }
    }
    T* dk_row = at<T>(a.dk, row, t.key_head);
    T* dv_row = at<T>(a.dv, row, t.key_head);
    for (int d = 0; d < a.dim; ++d) dk_row[d] = store<T>(dk[d] * static_cast<Acc>(a.scale));
    for (int d = 0; d < a.value_dim; ++d) dv_row[d] = store<T>(dv[d]);
  }
}

template <class T, class Acc>
constexpr AttentionPath kPath{forward<T, Acc>, backward_dq<T, Acc>, backward_dkv<T, Acc>, nullptr,
                              0};

}  // namespace

AttentionPath attention_reference_path(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return kPath<double, double>;
    case DType::f32:
      return kPath<float, double>;
    case DType::bf16:
      return kPath<bf16, double>;
    default:
      return {};
  }
}

AttentionPath attention_scalar_path(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return kPath<float, float>;
    case DType::bf16:
      return kPath<bf16, float>;
    default:
      return {};
  }
}

}  // namespace hone::cpu
