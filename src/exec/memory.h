// The doors between the host's memory and tensors: above backend/, nothing else reads or writes a
// tensor's numbers. Under meta nothing is moved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "exec/context.h"

namespace hone {

// Copies host values to a new tensor on the device [n].
Tensor upload(Context& ctx, std::span<const int32_t> values);
Tensor upload(Context& ctx, std::span<const int64_t> values);
Tensor upload(Context& ctx, std::span<const float> values);

// Elements [first, first + values.size()) of a contiguous f32, bf16 or f64 tensor become these,
// rounded to its dtype.
void write(const Device& device, const Tensor& to, int64_t first, std::span<const float> values);

// All values of a contiguous tensor. Under meta every element is `assumption`.
std::vector<double> read(const Context& ctx, const Tensor& t, double assumption);

// A contiguous tensor's bytes as the host sees them. Not under meta.
std::span<const std::byte> readable(const Device& device, const View& v);
std::span<std::byte> writable(const Device& device, const View& v);
template <class T>
std::span<const T> readable_as(const Device& device, const View& v) {
  const auto bytes = readable(device, v);
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

}  // namespace hone
