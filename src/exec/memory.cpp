#include "exec/memory.h"

#include <cstring>

namespace hone {
namespace {

template <class T>
Tensor upload_values(Context& ctx, DType dtype, std::span<const T> values) {
  Tensor t = ctx.empty(dtype, {static_cast<int64_t>(values.size())});
  if (!ctx.device->meta && !values.empty())
    std::memcpy(t.view().data, values.data(), values.size_bytes());
  return t;
}

}  // namespace

Tensor upload(Context& ctx, std::span<const int32_t> values) {
  return upload_values(ctx, DType::i32, values);
}
Tensor upload(Context& ctx, std::span<const int64_t> values) {
  return upload_values(ctx, DType::i64, values);
}
Tensor upload(Context& ctx, std::span<const float> values) {
  return upload_values(ctx, DType::f32, values);
}

std::vector<double> read(const Context& ctx, const Tensor& t, double assumption) {
  const auto n = static_cast<size_t>(t.numel());
  std::vector<double> out(n, assumption);
  if (ctx.device->meta) return out;
  HONE_CHECK(t.contiguous());
  for (size_t i = 0; i < n; ++i) {
    switch (t.dtype()) {
      case DType::f32:
        out[i] = t.view().as<float>()[i];
        break;
      case DType::f64:
        out[i] = t.view().as<double>()[i];
        break;
      case DType::bf16:
        out[i] = static_cast<float>(t.view().as<bf16>()[i]);
        break;
      case DType::i32:
        out[i] = t.view().as<int32_t>()[i];
        break;
      case DType::i64:
        out[i] = static_cast<double>(t.view().as<int64_t>()[i]);
        break;
      default:
        HONE_CHECK(false, "dtype cannot be read");
    }
  }
  return out;
}

void write(const Device& device, const Tensor& to, int64_t first, std::span<const float> values) {
  if (device.meta) return;
  HONE_CHECK(to.contiguous() && first + static_cast<int64_t>(values.size()) <= to.numel());
  const View& v = to.view();
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t at = first + static_cast<int64_t>(i);
    switch (v.dtype) {
      case DType::f32:
        v.as<float>()[at] = values[i];
        break;
      case DType::bf16:
        v.as<bf16>()[at] = bf16(values[i]);
        break;
      case DType::f64:
        v.as<double>()[at] = values[i];
        break;
      default:
        HONE_CHECK(false, "dtype cannot be written");
    }
  }
}

std::span<std::byte> writable(const Device& device, const View& v) {
  HONE_CHECK(!device.meta, "values of a meta device");
  int64_t next = 1;
  for (int i = v.rank - 1; i >= 0; next *= v.shape[i--])
    HONE_CHECK(v.shape[i] == 1 || v.stride[i] == next, "bytes of a tensor with gaps");
  return {static_cast<std::byte*>(v.data), static_cast<size_t>(v.numel()) * dtype_size(v.dtype)};
}

std::span<const std::byte> readable(const Device& device, const View& v) {
  return writable(device, v);
}

}  // namespace hone
