// Runs a kernel on small arrays: every path and dtype from the same numbers, on strided unaligned
// views between guard bytes, whole or only some rows of it. Tests of row-wise kernels describe a
// call once (Op) and check accuracy, row-exactness, threads and guards from it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "core/rng.h"

namespace hone::test {

// Numbers in [-scale, scale), a function of (seed, index) alone.
inline std::vector<double> numbers(uint64_t seed, int64_t n, double scale = 1) {
  std::vector<double> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const auto w = random_words(seed, Purpose::test, 0, static_cast<uint64_t>(i));
    v[static_cast<size_t>(i)] = scale * (2 * uniform_double(w[0], w[1]) - 1);
  }
  return v;
}

inline double round_to(DType t, double v) {
  if (t == DType::f32) return static_cast<double>(static_cast<float>(v));
  if (t == DType::bf16) {
    return static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
  }
  return v;
}

// One rounding to t, relative.
inline double unit_roundoff(DType t) {
  return t == DType::bf16 ? 0x1p-8 : t == DType::f32 ? 0x1p-24 : 0x1p-53;
}

// A strided array, one element off alignment, among guard bytes: pad elements after each row of the
// last dim.
class Array {
 public:
  Array(DType dtype, std::vector<int64_t> shape, int64_t pad = 0) : pad_(pad) {
    view_.dtype = dtype;
    view_.rank = static_cast<int>(shape.size());
    int64_t stride = 1;
    for (int i = view_.rank - 1; i >= 0; --i) {
      view_.shape[i] = shape[static_cast<size_t>(i)];
      view_.stride[i] = stride;
      stride = stride * view_.shape[i] + (i == view_.rank - 1 && view_.rank > 1 ? pad : 0);
    }
    const size_t size = dtype_size(dtype);
    bytes_.assign((static_cast<size_t>(stride) + 2 * kGuard) * size, kPattern);
    begin_ = (kGuard - 1) * size;
  }
  View view() {
    View v = view_;
    v.data = bytes_.data() + begin_;
    return v;
  }
  WeightView weight() {
    return {.data = bytes_.data() + begin_,
            .rows = view_.shape[0],
            .cols = view_.shape[1],
            .stride_bytes = view_.stride[0] * static_cast<int64_t>(dtype_size(view_.dtype)),
            .format = view_.dtype == DType::f64    ? Format::f64
                      : view_.dtype == DType::bf16 ? Format::bf16
                      : view_.dtype == DType::f16  ? Format::f16
                                                   : Format::f32};
  }
  int64_t numel() const { return view_.numel(); }
  double get(int64_t i) const {
    const unsigned char* p = address(i);
    switch (view_.dtype) {
      case DType::f32:
        return static_cast<double>(read<float>(p));
      case DType::f64:
        return read<double>(p);
      case DType::bf16:
        return static_cast<double>(static_cast<float>(read<bf16>(p)));
      case DType::f16:
        return static_cast<double>(static_cast<float>(read<f16>(p)));
      case DType::i32:
        return read<int32_t>(p);
      case DType::i64:
        return static_cast<double>(read<int64_t>(p));
      case DType::u8:
        return *p;
    }
    return 0;
  }
  void set(int64_t i, double v) {
    unsigned char* p = const_cast<unsigned char*>(address(i));
    switch (view_.dtype) {
      case DType::f32:
        return write(p, static_cast<float>(v));
      case DType::f64:
        return write(p, v);
      case DType::bf16:
        return write(p, bf16(static_cast<float>(v)));
      case DType::f16:
        return;  // input only
      case DType::i32:
        return write(p, static_cast<int32_t>(v));
      case DType::i64:
        return write(p, static_cast<int64_t>(v));
      case DType::u8:
        *p = static_cast<unsigned char>(v);
        return;
    }
  }
  void set_all(const std::vector<double>& v, int64_t from = 0) {
    for (int64_t i = 0; i < numel(); ++i) set(i, v[static_cast<size_t>(from + i)]);
  }
  // Bytes of the elements in order, without padding.
  std::vector<unsigned char> packed() const {
    const size_t size = dtype_size(view_.dtype);
    std::vector<unsigned char> out(static_cast<size_t>(numel()) * size);
    for (int64_t i = 0; i < numel(); ++i) {
      std::memcpy(out.data() + static_cast<size_t>(i) * size, address(i), size);
    }
    return out;
  }
  // True if nothing but elements was written.
  bool guards_intact() const {
    std::vector<unsigned char> copy = bytes_;
    const size_t size = dtype_size(view_.dtype);
    for (int64_t i = 0; i < numel(); ++i) {
      std::memset(copy.data() + (address(i) - bytes_.data()), kPattern, size);
    }
    for (unsigned char b : copy) {
      if (b != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 32;
  static constexpr unsigned char kPattern = 0xA5;
  const unsigned char* address(int64_t i) const {
    int64_t o = 0;
    for (int d = view_.rank - 1; d >= 0; --d) {
      o += i % view_.shape[d] * view_.stride[d];
      i /= view_.shape[d];
    }
    return bytes_.data() + begin_ + static_cast<size_t>(o) * dtype_size(view_.dtype);
  }
  template <class T>
  static T read(const unsigned char* p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  template <class T>
  static void write(unsigned char* p, T v) {
    std::memcpy(p, &v, sizeof v);
  }
  View view_;
  int64_t pad_;
  std::vector<unsigned char> bytes_;
  size_t begin_ = 0;
};

// Runs a kernel with a scratch of exactly the promised size between guards.
template <class Desc>
Status run_kernel(const Kernel<Desc>& kernel, const Desc& d, int threads = 1) {
  ThreadPool pool(threads);
  const DeviceProps props = cpu::device_props(threads);
  const size_t size = kernel.scratch_bytes == nullptr ? 0 : kernel.scratch_bytes(props, d);
  std::vector<unsigned char> memory(size + 256, 0xC3);
  unsigned char* scratch = memory.data() + 64;
  scratch += (64 - reinterpret_cast<uintptr_t>(scratch) % 64) % 64;
  const KernelCtx ctx{&pool, scratch, size, &props};
  const Status s = kernel.run(ctx, d);
  const size_t before = static_cast<size_t>(scratch - memory.data());
  for (size_t i = 0; i < memory.size(); ++i) {
    if (i >= before && i < before + size) continue;
    if (memory[i] != 0xC3) {
      ADD_FAILURE() << "scratch overrun: " << size << " bytes were promised";
      break;
    }
  }
  return s;
}

// What an operand is made of under test dtype t: t itself (f64 in the reference run), a statistic
// (f32; f64 there), or one fixed type.
enum class Kind { data, stat, f32, i32, i64 };

struct Operand {
  Kind kind;
  std::vector<int64_t> shape;
  std::vector<double> values;  // inputs, and outputs that are added to; empty: outputs start as NaN
  bool rows = true;            // the first dim is the stream's; else shared by all rows
  bool rounded = false;        // made of numbers rounded to the test dtype, whatever its own
};

struct Op {
  std::vector<Operand> in, out;
  std::function<Status(cpu::Isa, std::vector<Array>& in, std::vector<Array>& out, int threads)> run;
};

struct Setting {
  cpu::Isa isa = cpu::Isa::reference;
  DType dtype = DType::f64;
  int threads = 1;
  int64_t pad = 0;
  int64_t row_begin = 0, row_count = -1;  // -1: all
  DType values = DType::f64;              // inputs are first rounded to this
};

inline DType kind_dtype(Kind k, DType t) {
  switch (k) {
    case Kind::data:
      return t;
    case Kind::stat:
      return t == DType::f64 ? DType::f64 : DType::f32;
    case Kind::f32:
      return DType::f32;
    case Kind::i32:
      return DType::i32;
    case Kind::i64:
      return DType::i64;
  }
  return t;
}

inline std::vector<Array> execute(const Op& op, const Setting& s) {
  const auto make = [&](const Operand& o) {
    std::vector<int64_t> shape = o.shape;
    int64_t row = 1;
    for (size_t i = 1; i < shape.size(); ++i) row *= shape[i];
    const bool cut = o.rows && s.row_count >= 0;
    if (cut) shape[0] = s.row_count;
    Array a(kind_dtype(o.kind, s.dtype), shape, s.pad);
    std::vector<double> v = o.values;
    if (v.empty()) v.assign(static_cast<size_t>(o.shape[0] * row), std::nan(""));
    if (o.kind == Kind::data || o.kind == Kind::stat) {
      for (double& x : v) x = round_to(kind_dtype(o.kind, s.values), x);
    }
    a.set_all(v, cut ? s.row_begin * row : 0);
    return a;
  };
  std::vector<Array> in, out;
  for (const Operand& o : op.in) in.push_back(make(o));
  for (const Operand& o : op.out) out.push_back(make(o));
  const Status status = op.run(s.isa, in, out, s.threads);
  EXPECT_TRUE(status.ok()) << status.error;
  for (const Array& a : in) EXPECT_TRUE(a.guards_intact()) << "an input's surroundings changed";
  for (const Array& a : out) EXPECT_TRUE(a.guards_intact()) << "an output's surroundings changed";
  return out;
}

// max |a - b| / max |b|
inline double error(const Array& a, const Array& b) {
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < b.numel(); ++i) {
    const double e = std::fabs(a.get(i) - b.get(i));
    worst = e >= worst || std::isnan(e) ? e : worst;
    largest = std::max(largest, std::fabs(b.get(i)));
  }
  return largest == 0 ? worst : worst / largest;
}

inline std::string describe(cpu::Isa isa, DType t) {
  return std::string(cpu::isa_name(isa)) + " " + std::string(dtype_name(t));
}

// Rule: against fp64 on the same inputs, a path's error is at most twice the scalar path's (plain
// loops, same precision) plus one rounding of the output; the scalar path's own is at most
// `roundings` of them in the output's dtype and `sums` in fp32.
inline void check_accuracy(const Op& op, double sums, double roundings = 1,
                           std::vector<DType> dtypes = {DType::bf16, DType::f32}) {
  for (DType t : dtypes) {
    const auto truth = execute(op, {.values = t});
    const auto naive = execute(op, {.isa = cpu::Isa::scalar, .dtype = t, .values = t});
    for (cpu::Isa isa : cpu::available_isas()) {
      for (const int64_t pad : {0, 3}) {
        const auto got =
            execute(op, {.isa = isa, .dtype = t, .threads = 2, .pad = pad, .values = t});
        for (size_t i = 0; i < got.size(); ++i) {
          const double unit = unit_roundoff(op.out[i].rounded ? t : kind_dtype(op.out[i].kind, t));
          const double base = error(naive[i], truth[i]), mine = error(got[i], truth[i]);
          EXPECT_LE(base, roundings * unit + sums * 0x1p-24)
              << "scalar " << dtype_name(t) << " output " << i;
          EXPECT_LE(mine, 2 * base + unit) << describe(isa, t) << " output " << i << " pad " << pad;
        }
      }
    }
  }
}

// Any few rows alone give the bits they have among all, for one and two threads.
inline void check_rows(const Op& op, std::vector<DType> dtypes = {DType::bf16, DType::f32}) {
  const int64_t total = op.out[0].shape[0];
  for (cpu::Isa isa : cpu::available_isas()) {
    for (DType t : dtypes) {
      const auto all = execute(op, {.isa = isa, .dtype = t, .values = t});
      for (const int threads : {1, 2}) {
        for (const int64_t count : {int64_t{1}, int64_t{3}, int64_t{17}, total}) {
          if (count > total) continue;
          const int64_t begin = (total - count) / 2;
          const auto part = execute(op, {.isa = isa,
                                         .dtype = t,
                                         .threads = threads,
                                         .pad = 5,
                                         .row_begin = begin,
                                         .row_count = count,
                                         .values = t});
          for (size_t i = 0; i < part.size(); ++i) {
            if (!op.out[i].rows) continue;
            const auto a = part[i].packed(), b = all[i].packed();
            const size_t row = b.size() / static_cast<size_t>(total);
            EXPECT_EQ(0,
                      std::memcmp(a.data(), b.data() + static_cast<size_t>(begin) * row, a.size()))
                << describe(isa, t) << " output " << i << " rows " << count;
          }
        }
      }
    }
  }
}

// Everything, shared outputs too, has the same bits for one and two threads.
inline void check_threads(const Op& op, std::vector<DType> dtypes = {DType::bf16, DType::f32}) {
  for (cpu::Isa isa : cpu::available_isas()) {
    for (DType t : dtypes) {
      const auto one = execute(op, {.isa = isa, .dtype = t, .threads = 1, .values = t});
      const auto two = execute(op, {.isa = isa, .dtype = t, .threads = 2, .values = t});
      for (size_t i = 0; i < one.size(); ++i) {
        EXPECT_EQ(one[i].packed(), two[i].packed()) << describe(isa, t) << " output " << i;
      }
    }
  }
}

// The adjoint of the reference in fp64 against central differences: L = sum over the forward
// outputs of seed * output. forward: values of the inputs -> L. Checks d L / d in[which] = grad at
// the given elements.
inline void check_gradient(const std::function<double(const std::vector<double>&)>& forward,
                           const std::vector<double>& at, const Array& grad, double tolerance) {
  double largest = 0;
  for (int64_t i = 0; i < grad.numel(); ++i) largest = std::max(largest, std::fabs(grad.get(i)));
  const size_t step = std::max<size_t>(1, at.size() / 40);
  for (size_t i = 0; i < at.size(); i += step) {
    const double h = 1e-5;
    std::vector<double> v = at;
    v[i] = at[i] + h;
    const double up = forward(v);
    v[i] = at[i] - h;
    const double down = forward(v);
    EXPECT_NEAR(grad.get(static_cast<int64_t>(i)), (up - down) / (2 * h), tolerance * largest)
        << "element " << i;
  }
}

}  // namespace hone::test
