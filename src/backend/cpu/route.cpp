// Routing of a mixture of experts on the CPU. Legend: backend/desc/route.h.
#include <cmath>
#include <limits>

#include "backend/cpu/rows.h"
#include "backend/desc/route.h"

namespace hone::cpu {
namespace {

constexpr int64_t kRun = 512;     // features at a time
constexpr int64_t kRowTask = 64;  // rows whose scores are summed as one

double number(const View& v, int64_t row, int64_t col) {
  const int64_t i = row * v.stride[0] + col * v.stride[1];
  switch (v.dtype) {
    case DType::f64:
      return v.as<double>()[i];
    case DType::bf16:
      return static_cast<double>(static_cast<float>(v.as<bf16>()[i]));
    default:
      return static_cast<double>(v.as<float>()[i]);
  }
}
double number(const View& v, int64_t i) {
  return v.dtype == DType::f64 ? v.as<double>()[i * v.stride[0]]
                               : static_cast<double>(v.as<float>()[i * v.stride[0]]);
}
void set_number(const View& v, int64_t row, int64_t col, double value) {
  const int64_t i = row * v.stride[0] + col * v.stride[1];
  switch (v.dtype) {
    case DType::f64:
      v.as<double>()[i] = value;
      break;
    case DType::bf16:
      v.as<bf16>()[i] = bf16(static_cast<float>(value));
      break;
    default:
      v.as<float>()[i] = static_cast<float>(value);
  }
}
int64_t index(const View& v, int64_t row, int64_t col) {
  return v.as<int32_t>()[row * v.stride[0] + col * v.stride[1]];
}

bool is_indices(const View& v) { return v.rank == 2 && v.dtype == DType::i32; }
bool is_wide(Isa isa, const View& v, int rank) {
  return v.rank == rank &&
         (v.dtype == DType::f32 || (v.dtype == DType::f64 && isa == Isa::reference));
}

// Scores of one row; T is the type that is computed in.
template <class T>
void scores_of(const View& logits, int64_t row, RouteRule::Scores kind, T* out) {
  const int64_t experts = logits.shape[1];
  if (kind == RouteRule::Scores::sigmoid) {
    for (int64_t e = 0; e < experts; ++e)
      out[e] = T(1) / (T(1) + std::exp(-static_cast<T>(number(logits, row, e))));
    return;
  }
  T top = -std::numeric_limits<T>::infinity(), sum = 0;
  for (int64_t e = 0; e < experts; ++e) top = std::max(top, static_cast<T>(number(logits, row, e)));
  for (int64_t e = 0; e < experts; ++e) {
    out[e] = std::exp(static_cast<T>(number(logits, row, e)) - top);
    sum += out[e];
  }
  for (int64_t e = 0; e < experts; ++e) out[e] /= sum;
}

// Position of the largest of [begin, end), of equals the first; end if all are -inf or NaN.
template <class T>
int64_t best_of_run(const T* values, int64_t begin, int64_t end) {
  int64_t best = end;
  for (int64_t i = begin; i < end; ++i) {
    if (values[i] > (best == end ? -std::numeric_limits<T>::infinity() : values[best])) best = i;
  }
  return best;
}

template <class T>
T two_best(const T* choice, int64_t begin, int64_t end) {
  constexpr T kNone = -std::numeric_limits<T>::infinity();
  T first = kNone, second = kNone;
  for (int64_t i = begin; i < end; ++i) {
    if (choice[i] > first) {
      second = std::exchange(first, choice[i]);
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return end - begin == 1 ? first : first + second;
}

// Takes the experts of all groups but the best out of the choice; sums has a place for each group.
template <class T>
void keep_groups(const RouteRule& rule, int64_t experts, T* choice, T* sums) {
  constexpr T kNone = -std::numeric_limits<T>::infinity();
  const int64_t size = experts / rule.groups;
  for (int g = 0; g < rule.groups; ++g) sums[g] = two_best(choice, g * size, (g + 1) * size);
  for (int kept = 0; kept < rule.kept_groups; ++kept) {
    const int64_t g = best_of_run(sums, 0, rule.groups);
    if (g < rule.groups) sums[g] = std::numeric_limits<T>::quiet_NaN();  // taken
  }
  for (int g = 0; g < rule.groups; ++g) {
    if (!std::isnan(sums[g])) std::fill_n(choice + g * size, size, kNone);
  }
}

template <class T>
void route_row(const RouteDesc& d, int64_t row, const T* scores, T* choice, T* sums) {
  const int64_t experts = d.logits.shape[1], k = d.experts.shape[1];
  for (int64_t e = 0; e < experts; ++e)
    choice[e] = scores[e] + (d.correction.none() ? T(0) : static_cast<T>(number(d.correction, e)));
  if (d.rule.groups > 1) keep_groups(d.rule, experts, choice, sums);
  T sum = 0;
  for (int64_t j = 0; j < k; ++j) {
    int64_t e = best_of_run(choice, 0, experts);
    if (e == experts) e = j;  // not a number anywhere: any will do, the loss shows it
    choice[e] = -std::numeric_limits<T>::infinity();
    d.experts.as<int32_t>()[row * d.experts.stride[0] + j * d.experts.stride[1]] =
        static_cast<int32_t>(e);
    sum += scores[e];
  }
  const T scale = d.rule.normalise
                      ? static_cast<T>(d.rule.factor) / (sum + static_cast<T>(d.rule.epsilon))
                      : static_cast<T>(d.rule.factor);
  for (int64_t j = 0; j < k; ++j)
    set_number(d.weights, row, j, static_cast<double>(scores[index(d.experts, row, j)] * scale));
}

int64_t row_tasks(int64_t rows) { return (rows + kRowTask - 1) / kRowTask; }

template <class Fn>
void for_tasks(const KernelCtx& ctx, int64_t tasks, Fn fn) {
  if (ctx.pool != nullptr && tasks > 1) {
    ctx.pool->run(tasks, [&](int64_t t, int) { fn(t); });
  } else {
    for (int64_t t = 0; t < tasks; ++t) fn(t);
  }
}

// Of a task: scores, choice and groups of a row, and its rows' sum.
template <class T>
size_t task_numbers(int64_t experts) {
  return static_cast<size_t>(4 * experts);
}

template <class T>
void route_rows(const KernelCtx& ctx, const RouteDesc& d) {
  const int64_t rows = d.logits.shape[0], experts = d.logits.shape[1];
  const size_t each = task_numbers<T>(experts);
  T* const scratch = static_cast<T*>(ctx.scratch);
  for_tasks(ctx, row_tasks(rows), [&](int64_t task) {
    T* const scores = scratch + static_cast<size_t>(task) * each;
    T *const choice = scores + experts, *const sums = choice + experts,
             *const total = sums + experts;
    std::fill_n(total, experts, T(0));
    for (int64_t r = task * kRowTask; r < std::min(rows, (task + 1) * kRowTask); ++r) {
      scores_of(d.logits, r, d.rule.scores, scores);
      route_row(d, r, scores, choice, sums);
      for (int64_t e = 0; e < experts; ++e) total[e] += scores[e];
    }
  });
  if (d.score_sum.none()) return;
  for (int64_t e = 0; e < experts; ++e) {
    T sum = 0;
    for (int64_t task = 0; task < row_tasks(rows); ++task)
      sum += scratch[static_cast<size_t>(task) * each + static_cast<size_t>(3 * experts + e)];
    if (d.score_sum.dtype == DType::f64) {
      d.score_sum.as<double>()[e * d.score_sum.stride[0]] = static_cast<double>(sum);
    } else {
      d.score_sum.as<float>()[e * d.score_sum.stride[0]] = static_cast<float>(sum);
    }
  }
}

Status check_rule(const RouteRule& rule, int64_t experts, int64_t k) {
  if (k < 1 || k > experts) return {"route: more experts a row than there are"};
  if (rule.groups < 1 || experts % rule.groups != 0 || rule.kept_groups < 1 ||
      rule.kept_groups > rule.groups || experts / rule.groups * rule.kept_groups < k) {
    return {"route: groups"};
  }
  return {};
}

Status run_route(Isa isa, const KernelCtx& ctx, const RouteDesc& d) {
  if (d.logits.rank != 2 || !is_float(isa, d.logits)) return {"route: logits are [T, E]"};
  const int64_t rows = d.logits.shape[0], experts = d.logits.shape[1];
  if (!is_indices(d.experts) || d.experts.shape[0] != rows)
    return {"route: experts are [T, K] i32"};
  if (!same_shape(d.weights, d.experts) || !is_float(isa, d.weights))
    return {"route: weights are [T, K]"};
  for (const View* v : {&d.correction, &d.score_sum}) {
    if (!v->none() && (!is_wide(isa, *v, 1) || v->shape[0] != experts))
      return {"route: correction and score_sum are [E] fp32"};
  }
  if (const Status s = check_rule(d.rule, experts, d.experts.shape[1]); !s.ok()) return s;
  if (isa == Isa::reference) {
    route_rows<double>(ctx, d);
  } else {
    route_rows<float>(ctx, d);
  }
  return {};
}

size_t route_scratch(const DeviceProps&, const RouteDesc& d) {
  return static_cast<size_t>(row_tasks(d.logits.shape[0])) *
         task_numbers<double>(d.logits.shape[1]) * sizeof(double);
}

// dscores of one row, in place of nothing: starts from the sum's.
template <class T>
void score_gradient(const RouteBackwardDesc& d, int64_t row, const T* scores, T* dscores) {
  const int64_t experts = d.logits.shape[1], k = d.experts.shape[1];
  for (int64_t e = 0; e < experts; ++e)
    dscores[e] = d.dscore_sum.none() ? T(0) : static_cast<T>(number(d.dscore_sum, e));
  if (d.dweights.none()) return;
  T sum = 0, along = 0;
  for (int64_t j = 0; j < k; ++j) {
    const T s = scores[index(d.experts, row, j)];
    sum += s;
    along += s * static_cast<T>(number(d.dweights, row, j));
  }
  const T total = sum + static_cast<T>(d.rule.epsilon), factor = static_cast<T>(d.rule.factor);
  for (int64_t j = 0; j < k; ++j) {
    const T dw = static_cast<T>(number(d.dweights, row, j));
    dscores[index(d.experts, row, j)] +=
        d.rule.normalise ? factor * (dw - along / total) / total : factor * dw;
  }
}

template <class T>
void backward_rows(const KernelCtx& ctx, const RouteBackwardDesc& d) {
  const int64_t rows = d.logits.shape[0], experts = d.logits.shape[1];
  T* const scratch = static_cast<T*>(ctx.scratch);
  for_tasks(ctx, row_tasks(rows), [&](int64_t task) {
    T* const scores = scratch + task * 2 * experts;
    T* const dscores = scores + experts;
    for (int64_t r = task * kRowTask; r < std::min(rows, (task + 1) * kRowTask); ++r) {
      scores_of(d.logits, r, d.rule.scores, scores);
      score_gradient(d, r, scores, dscores);
      T along = 0;
      for (int64_t e = 0; e < experts; ++e) along += scores[e] * dscores[e];
      for (int64_t e = 0; e < experts; ++e) {
        const T dz = d.rule.scores == RouteRule::Scores::softmax
                         ? scores[e] * (dscores[e] - along)
                         : dscores[e] * scores[e] * (T(1) - scores[e]);
        set_number(d.dlogits, r, e, static_cast<double>(dz));
      }
    }
  });
}

Status run_route_backward(Isa isa, const KernelCtx& ctx, const RouteBackwardDesc& d) {
  if (d.logits.rank != 2 || !is_float(isa, d.logits)) return {"route_backward: logits are [T, E]"};
  const int64_t rows = d.logits.shape[0], experts = d.logits.shape[1];
  if (!is_indices(d.experts) || d.experts.shape[0] != rows)
    return {"route_backward: experts are [T, K] i32"};
  if (!d.dweights.none() && (!is_wide(isa, d.dweights, 2) || !same_shape(d.dweights, d.experts)))
    return {"route_backward: dweights are [T, K] fp32"};
  if (!d.dscore_sum.none() && (!is_wide(isa, d.dscore_sum, 1) || d.dscore_sum.shape[0] != experts))
    return {"route_backward: dscore_sum is [E] fp32"};
  if (!same_shape(d.dlogits, d.logits) || d.dlogits.dtype != d.logits.dtype)
    return {"route_backward: dlogits are as logits"};
  if (isa == Isa::reference) {
    backward_rows<double>(ctx, d);
  } else {
    backward_rows<float>(ctx, d);
  }
  return {};
}

size_t route_backward_scratch(const DeviceProps&, const RouteBackwardDesc& d) {
  return static_cast<size_t>(row_tasks(d.logits.shape[0]) * 2 * d.logits.shape[1]) * sizeof(double);
}

// A run of features in the type that is computed in.
struct Piece {
  double storage[kRun];
  DType dtype;
  explicit Piece(Isa isa) : dtype(isa == Isa::reference ? DType::f64 : DType::f32) {}
  Span span() { return {storage, dtype}; }
  double dot(const Piece& other, int64_t n) const {
    return dtype == DType::f64 ? dot_of(storage, other.storage, n)
                               : dot_of(reinterpret_cast<const float*>(storage),
                                        reinterpret_cast<const float*>(other.storage), n);
  }

 private:
  template <class T>
  static double dot_of(const T* a, const T* b, int64_t n) {
    T lanes[16] = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      for (int64_t l = 0; l < 16; ++l) lanes[l] += a[i + l] * b[i + l];
    }
    for (; i < n; ++i) lanes[i % 16] += a[i] * b[i];
    T sum = 0;
    for (const T lane : lanes) sum += lane;
    return static_cast<double>(sum);
  }
};

Status check_places(Isa isa, const View& places, const View& weights, const View& sorted) {
  if (!is_indices(places)) return {"combine: places are [T, K] i32"};
  if (!weights.none() && (!same_shape(weights, places) || !is_float(isa, weights)))
    return {"combine: weights are [T, K]"};
  if (sorted.none()) return {};
  if (sorted.rank != 2 || !is_float(isa, sorted) || !last_dim_ok(sorted))
    return {"combine: rows of experts are [M, D]"};
  for (int64_t t = 0; t < places.shape[0]; ++t) {
    for (int64_t j = 0; j < places.shape[1]; ++j) {
      if (index(places, t, j) < 0 || index(places, t, j) >= sorted.shape[0])
        return {"combine: a place is outside"};
    }
  }
  return {};
}

double weight(const View& weights, int64_t t, int64_t j) {
  return weights.none() ? 1 : number(weights, t, j);
}

Status run_combine(Isa isa, const KernelCtx& ctx, const CombineDesc& d) {
  if (const Status s = check_places(isa, d.places, d.weights, d.x); !s.ok()) return s;
  if (d.y.rank != 2 || d.y.shape[0] != d.places.shape[0] || d.y.shape[1] != d.x.shape[1] ||
      !is_float(isa, d.y) || !last_dim_ok(d.y))
    return {"combine: y is [T, D]"};
  if (!d.add.none() && (!same_shape(d.add, d.y) || !is_float(isa, d.add) || !last_dim_ok(d.add)))
    return {"combine: add is [T, D]"};
  const RowOps& ops = row_ops(isa);
  const int64_t k = d.places.shape[1], width = d.y.shape[1];
  for_rows(ctx, d.y.shape[0], static_cast<int64_t>(dtype_size(d.y.dtype)) * width * (k + 1),
           [&](int64_t t) {
             Piece sum(isa), one(isa);
             for (int64_t col = 0; col < width; col += kRun) {
               const int64_t n = std::min(kRun, width - col);
               for (int64_t j = 0; j < k; ++j) {
                 const Span from = at(d.x, index(d.places, t, j) * d.x.stride[0] + col);
                 Piece& to = j == 0 ? sum : one;
                 ops.convert(from, to.span(), n, weight(d.weights, t, j));
                 if (j != 0) ops.add(sum.span(), one.span(), sum.span(), n);
               }
               const Span y = at(d.y, t * d.y.stride[0] + col);
               if (d.add.none()) {
                 ops.convert(sum.span(), y, n, 1);
               } else {
                 ops.add(at(d.add, t * d.add.stride[0] + col), sum.span(), y, n);
               }
             }
           });
  return {};
}

Status run_combine_backward(Isa isa, const KernelCtx& ctx, const CombineBackwardDesc& d) {
  for (const View* sorted : {&d.x, &d.dx}) {
    if (const Status s = check_places(isa, d.places, d.weights, *sorted); !s.ok()) return s;
    if (!sorted->none() && sorted->shape[1] != d.dy.shape[1]) return {"combine_backward: [M, D]"};
  }
  if (d.dy.rank != 2 || d.dy.shape[0] != d.places.shape[0] || !is_float(isa, d.dy) ||
      !last_dim_ok(d.dy))
    return {"combine_backward: dy is [T, D]"};
  if (!d.dweights.none() &&
      (d.x.none() || !is_wide(isa, d.dweights, 2) || !same_shape(d.dweights, d.places)))
    return {"combine_backward: dweights are [T, K] fp32"};
  const RowOps& ops = row_ops(isa);
  const int64_t k = d.places.shape[1], width = d.dy.shape[1];
  for_rows(ctx, d.dy.shape[0], static_cast<int64_t>(dtype_size(d.dy.dtype)) * width * 2 * (k + 1),
           [&](int64_t t) {
             Piece gradient(isa), value(isa);
             for (int64_t j = 0; j < k; ++j) {
               const int64_t place = index(d.places, t, j);
               double dot = 0;
               for (int64_t col = 0; col < width; col += kRun) {
                 const int64_t n = std::min(kRun, width - col);
                 const Span dy = at(d.dy, t * d.dy.stride[0] + col);
                 if (!d.dx.none())
                   ops.convert(dy, at(d.dx, place * d.dx.stride[0] + col), n,
                               weight(d.weights, t, j));
                 if (d.dweights.none()) continue;
                 ops.convert(dy, gradient.span(), n, 1);
                 ops.convert(at(d.x, place * d.x.stride[0] + col), value.span(), n, 1);
                 dot += value.dot(gradient, n);
               }
               if (!d.dweights.none()) set_number(d.dweights, t, j, dot);
             }
           });
  return {};
}

Cost route_cost(const RouteDesc& d) {
  const double n = static_cast<double>(d.logits.numel());
  return {n * (3 + static_cast<double>(d.experts.shape[1])),
          view_bytes(d.logits) + view_bytes(d.experts) + view_bytes(d.weights)};
}
Cost route_backward_cost(const RouteBackwardDesc& d) {
  return {6 * static_cast<double>(d.logits.numel()),
          2 * view_bytes(d.logits) + view_bytes(d.dweights)};
}
Cost combine_cost(const CombineDesc& d) {
  const double n = static_cast<double>(d.places.numel() * d.y.shape[1]);
  return {2 * n,
          n * static_cast<double>(dtype_size(d.x.dtype)) + view_bytes(d.y) + view_bytes(d.add)};
}
Cost combine_backward_cost(const CombineBackwardDesc& d) {
  const double n = static_cast<double>(d.places.numel() * d.dy.shape[1]);
  return {(d.dweights.none() ? 1 : 3) * n, view_bytes(d.dy) + view_bytes(d.dx) + view_bytes(d.x)};
}

}  // namespace

Kernel<RouteDesc> route(Isa isa) {
  return {by_isa<RouteDesc, run_route>(isa), route_scratch, nullptr, route_cost, true};
}
Kernel<RouteBackwardDesc> route_backward(Isa isa) {
  return {by_isa<RouteBackwardDesc, run_route_backward>(isa), route_backward_scratch, nullptr,
          route_backward_cost, true};
}
Kernel<CombineDesc> combine(Isa isa) {
  return {by_isa<CombineDesc, run_combine>(isa), nullptr, nullptr, combine_cost, true};
}
Kernel<CombineBackwardDesc> combine_backward(Isa isa) {
  return {by_isa<CombineBackwardDesc, run_combine_backward>(isa), nullptr, nullptr,
          combine_backward_cost, true};
}

}  // namespace hone::cpu
