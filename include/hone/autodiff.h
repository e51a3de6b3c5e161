// Reverse-mode differentiation of vectors of doubles: what losses are written in, hone's own and
// those of a plug-in. Header-only; needs C++17 and nothing else.
//
//   Tape tape;
//   Vec x = tape.variable({1, 2, 3});
//   tape.backward(sum(square(x)));
//   x.grad();  // {2, 4, 6}
//
// Elementwise operations take vectors of equal size, or one of size 1 that is meant for every
// element (a scalar). std::invalid_argument where sizes don't fit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace hone::autodiff {

// Consecutive pieces of a vector: piece i is [offsets[i], offsets[i + 1]). Pieces may be empty.
struct Segments {
  std::vector<std::size_t> offsets = {0};
  std::size_t count() const { return offsets.size() - 1; }
  std::size_t total() const { return offsets.back(); }
  std::size_t begin(std::size_t i) const { return offsets[i]; }
  std::size_t end(std::size_t i) const { return offsets[i + 1]; }
  std::size_t length(std::size_t i) const { return offsets[i + 1] - offsets[i]; }
  void add(std::size_t length) { offsets.push_back(offsets.back() + length); }
};

class Tape;

namespace detail {
struct Node {
  Tape* tape = nullptr;
  std::vector<double> value;
  std::vector<double> grad;         // as long as value, once backward() has come this far
  std::function<void(Node&)> back;  // adds to the grads of what this was made of; empty: a leaf
  bool differentiable = false;
};
}  // namespace detail

// A vector on a tape. Cheap to copy; lives as long as its tape.
class Vec {
 public:
  Vec() = default;
  std::size_t size() const { return node_->value.size(); }
  const std::vector<double>& value() const { return node_->value; }
  // After backward(): the adjoint, zeros where nothing depends on it.
  std::vector<double> grad() const {
    return node_->grad.empty() ? std::vector<double>(size(), 0.0) : node_->grad;
  }
  double scalar() const {
    if (size() != 1) throw std::invalid_argument("not a scalar: " + std::to_string(size()));
    return node_->value[0];
  }
  bool defined() const { return node_ != nullptr; }
  detail::Node* node() const { return node_; }

 private:
  friend class Tape;
  explicit Vec(detail::Node* node) : node_(node) {}
  detail::Node* node_ = nullptr;
};

class Tape {
 public:
  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Vec variable(std::vector<double> value) { return add(std::move(value), true); }
  Vec constant(std::vector<double> value) { return add(std::move(value), false); }
  Vec constant(double value) { return add({value}, false); }

  // A copy that no adjoint passes through. With frozen values (see freeze) the k-th call gives the
  // k-th of them, whatever x is.
  Vec detached(const Vec& x) {
    const std::size_t k = detached_++;
    if (k < frozen_.size()) return constant(frozen_[k]);
    recorded_.push_back(x.value());
    return constant(x.value());
  }
  // Values of detached() so far, in order; and the same for another tape, so that differences can
  // be taken of the very function whose adjoint backward() gives.
  const std::vector<std::vector<double>>& detached_values() const { return recorded_; }
  void freeze(std::vector<std::vector<double>> values) { frozen_ = std::move(values); }

  // Fills the grads of everything that `loss`, a scalar, depends on. Once a tape.
  void backward(const Vec& loss) {
    if (loss.size() != 1) throw std::invalid_argument("backward() takes a scalar");
    loss.node()->grad = {1.0};
    for (auto it = nodes_.rbegin(); it != nodes_.rend(); ++it) {
      if (it->differentiable && it->back && !it->grad.empty()) it->back(*it);
    }
  }

  Vec add(std::vector<double> value, bool differentiable,
          std::function<void(detail::Node&)> back = {}) {
    nodes_.push_back({this, std::move(value), {}, std::move(back), differentiable});
    return Vec(&nodes_.back());
  }

 private:
  std::deque<detail::Node> nodes_;
  std::vector<std::vector<double>> recorded_, frozen_;
  std::size_t detached_ = 0;
};

namespace detail {

inline void add_to(Node* n, std::size_t i, double g) {
  if (n->grad.empty()) n->grad.assign(n->value.size(), 0.0);
  n->grad[i] += g;
}

// y[i] = f(x[i]); df(x, y) is the derivative.
template <class F, class D>
Vec map(const Vec& x, F f, D df) {
  Node* a = x.node();
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = f(a->value[i]);
  return a->tape->add(std::move(y), a->differentiable, [a, df](Node& n) {
    for (std::size_t i = 0; i < n.value.size(); ++i)
      add_to(a, i, n.grad[i] * df(a->value[i], n.value[i]));
  });
}

// y[i] = f(a[i], b[i]); da, db are the two derivatives.
template <class F, class Da, class Db>
Vec zip(const Vec& va, const Vec& vb, F f, Da da, Db db) {
  Node *a = va.node(), *b = vb.node();
  const std::size_t na = va.size(), nb = vb.size();
  if (na != nb && na != 1 && nb != 1)
    throw std::invalid_argument("vectors of " + std::to_string(na) + " and " + std::to_string(nb) +
                                " elements don't fit together");
  const std::size_t n = na == 0 || nb == 0 ? 0 : std::max(na, nb);
  const std::size_t sa = na == 1 ? 0 : 1, sb = nb == 1 ? 0 : 1;
  std::vector<double> y(n);
  for (std::size_t i = 0; i < n; ++i) y[i] = f(a->value[i * sa], b->value[i * sb]);
  return a->tape->add(std::move(y), a->differentiable || b->differentiable,
                      [a, b, sa, sb, da, db](Node& node) {
                        for (std::size_t i = 0; i < node.value.size(); ++i) {
                          const double x = a->value[i * sa], z = b->value[i * sb];
                          if (a->differentiable) add_to(a, i * sa, node.grad[i] * da(x, z));
                          if (b->differentiable) add_to(b, i * sb, node.grad[i] * db(x, z));
                        }
                      });
}

inline double stable_sigmoid(double x) {
  if (x >= 0) return 1.0 / (1.0 + std::exp(-x));
  const double e = std::exp(x);
  return e / (1.0 + e);
}

}  // namespace detail

// ---- elementwise

inline Vec operator-(const Vec& x) {
  return detail::map(
      x, [](double v) { return -v; }, [](double, double) { return -1.0; });
}
inline Vec exp(const Vec& x) {
  return detail::map(
      x, [](double v) { return std::exp(v); }, [](double, double y) { return y; });
}
inline Vec log(const Vec& x) {
  return detail::map(
      x, [](double v) { return std::log(v); }, [](double v, double) { return 1.0 / v; });
}
inline Vec square(const Vec& x) {
  return detail::map(
      x, [](double v) { return v * v; }, [](double v, double) { return 2.0 * v; });
}
inline Vec sqrt(const Vec& x) {
  return detail::map(
      x, [](double v) { return std::sqrt(v); }, [](double, double y) { return 0.5 / y; });
}
inline Vec abs(const Vec& x) {
  return detail::map(
      x, [](double v) { return std::fabs(v); },
      [](double v, double) { return v > 0   ? 1.0
                                    : v < 0 ? -1.0
                                            : 0.0; });
}
inline Vec tanh(const Vec& x) {
  return detail::map(
      x, [](double v) { return std::tanh(v); }, [](double, double y) { return 1.0 - y * y; });
}
inline Vec relu(const Vec& x) {
  return detail::map(
      x, [](double v) { return v > 0 ? v : 0.0; },
      [](double v, double) { return v > 0 ? 1.0 : 0.0; });
}
inline Vec sigmoid(const Vec& x) {
  return detail::map(x, detail::stable_sigmoid, [](double, double y) { return y * (1.0 - y); });
}
inline Vec log_sigmoid(const Vec& x) {
  return detail::map(
      x, [](double v) { return std::min(v, 0.0) - std::log1p(std::exp(-std::fabs(v))); },
      [](double v, double) { return detail::stable_sigmoid(-v); });
}
// log(1 - e^x) of x < 0.
inline Vec log1mexp(const Vec& x) {
  return detail::map(
      x,
      [](double v) {
        return v < -0.6931471805599453 ? std::log1p(-std::exp(v)) : std::log(-std::expm1(v));
      },
      [](double v, double) { return -1.0 / std::expm1(-v); });
}
// Limits outside of [lo, hi]; the adjoint passes inside, bounds included.
inline Vec clamp(const Vec& x, double lo, double hi) {
  return detail::map(
      x, [lo, hi](double v) { return v < lo   ? lo
                                     : v > hi ? hi
                                              : v; },
      [lo, hi](double v, double) { return v >= lo && v <= hi ? 1.0 : 0.0; });
}

inline Vec operator+(const Vec& a, const Vec& b) {
  const auto one = [](double, double) { return 1.0; };
  return detail::zip(
      a, b, [](double x, double y) { return x + y; }, one, one);
}
inline Vec operator-(const Vec& a, const Vec& b) {
  return detail::zip(
      a, b, [](double x, double y) { return x - y; }, [](double, double) { return 1.0; },
      [](double, double) { return -1.0; });
}
inline Vec operator*(const Vec& a, const Vec& b) {
  return detail::zip(
      a, b, [](double x, double y) { return x * y; }, [](double, double y) { return y; },
      [](double x, double) { return x; });
}
inline Vec operator/(const Vec& a, const Vec& b) {
  return detail::zip(
      a, b, [](double x, double y) { return x / y; }, [](double, double y) { return 1.0 / y; },
      [](double x, double y) { return -x / (y * y); });
}
// Equal arguments share the adjoint.
inline Vec min(const Vec& a, const Vec& b) {
  return detail::zip(
      a, b, [](double x, double y) { return y < x ? y : x; },
      [](double x, double y) { return x < y    ? 1.0
                                      : x == y ? 0.5
                                               : 0.0; },
      [](double x, double y) { return y < x    ? 1.0
                                      : x == y ? 0.5
                                               : 0.0; });
}
inline Vec max(const Vec& a, const Vec& b) { return -min(-a, -b); }

#define HONE_AUTODIFF_SCALAR(op)                                                              \
  inline Vec operator op(const Vec& a, double b) { return a op a.node()->tape->constant(b); } \
  inline Vec operator op(double a, const Vec& b) { return b.node()->tape->constant(a) op b; }
HONE_AUTODIFF_SCALAR(+)
HONE_AUTODIFF_SCALAR(-)
HONE_AUTODIFF_SCALAR(*)
HONE_AUTODIFF_SCALAR(/)
#undef HONE_AUTODIFF_SCALAR

// if_true where mask[i] isn't 0, else if_false.
inline Vec where(const std::vector<std::uint8_t>& mask, const Vec& if_true, const Vec& if_false) {
  detail::Node *a = if_true.node(), *b = if_false.node();
  const std::size_t sa = if_true.size() == 1 ? 0 : 1, sb = if_false.size() == 1 ? 0 : 1;
  if ((sa == 1 && if_true.size() != mask.size()) || (sb == 1 && if_false.size() != mask.size()))
    throw std::invalid_argument("where(): mask and vectors differ in size");
  std::vector<double> y(mask.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = mask[i] ? a->value[i * sa] : b->value[i * sb];
  return a->tape->add(std::move(y), a->differentiable || b->differentiable,
                      [a, b, sa, sb, mask](detail::Node& n) {
                        for (std::size_t i = 0; i < mask.size(); ++i)
                          detail::add_to(mask[i] ? a : b, i * (mask[i] ? sa : sb), n.grad[i]);
                      });
}

inline Vec detach(const Vec& x) { return x.node()->tape->detached(x); }

// ---- sums and pieces

inline Vec sum(const Vec& x) {
  detail::Node* a = x.node();
  double s = 0;
  for (const double v : a->value) s += v;
  return a->tape->add({s}, a->differentiable, [a](detail::Node& n) {
    for (std::size_t i = 0; i < a->value.size(); ++i) detail::add_to(a, i, n.grad[0]);
  });
}
// Of no elements: 0 / 0.
inline Vec mean(const Vec& x) { return sum(x) / static_cast<double>(x.size()); }

// One sum a piece.
inline Vec sum(const Vec& x, const Segments& s) {
  if (x.size() != s.total()) throw std::invalid_argument("sum(): pieces of another vector");
  detail::Node* a = x.node();
  std::vector<double> y(s.count(), 0.0);
  for (std::size_t i = 0; i < s.count(); ++i)
    for (std::size_t t = s.begin(i); t < s.end(i); ++t) y[i] += a->value[t];
  return a->tape->add(std::move(y), a->differentiable, [a, s](detail::Node& n) {
    for (std::size_t i = 0; i < s.count(); ++i)
      for (std::size_t t = s.begin(i); t < s.end(i); ++t) detail::add_to(a, t, n.grad[i]);
  });
}

// y[i] = x[index[i]].
inline Vec gather(const Vec& x, const std::vector<std::size_t>& index) {
  detail::Node* a = x.node();
  std::vector<double> y(index.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = a->value.at(index[i]);
  return a->tape->add(std::move(y), a->differentiable, [a, index](detail::Node& n) {
    for (std::size_t i = 0; i < index.size(); ++i) detail::add_to(a, index[i], n.grad[i]);
  });
}

// One value a piece, for every element of it.
inline Vec spread(const Vec& x, const Segments& s) {
  if (x.size() != s.count()) throw std::invalid_argument("spread(): not one value a piece");
  std::vector<std::size_t> index(s.total());
  for (std::size_t i = 0; i < s.count(); ++i)
    std::fill(index.begin() + static_cast<std::ptrdiff_t>(s.begin(i)),
              index.begin() + static_cast<std::ptrdiff_t>(s.end(i)), i);
  return gather(x, index);
}

// Ascending; equal elements keep their order.
inline Vec sort(const Vec& x) {
  std::vector<std::size_t> order(x.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const std::vector<double>& v = x.value();
  std::stable_sort(order.begin(), order.end(),
                   [&v](std::size_t a, std::size_t b) { return v[a] < v[b]; });
  return gather(x, order);
}

}  // namespace hone::autodiff
