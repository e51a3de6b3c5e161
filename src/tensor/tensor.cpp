#include "tensor/tensor.h"

namespace hone {

Tensor Tensor::empty(Arena& arena, DType dtype, std::initializer_list<int64_t> shape,
                     MemoryKind kind) {
  HONE_CHECK(shape.size() >= 1 && shape.size() <= kMaxDims);
  Tensor t;
  t.view_.dtype = dtype;
  t.view_.rank = static_cast<int>(shape.size());
  int64_t n = 1;
  int i = 0;
  for (int64_t extent : shape) {
    HONE_CHECK(extent >= 0);
    t.view_.shape[i++] = extent;
    n *= extent;
  }
  int64_t stride = 1;
  for (i = t.view_.rank - 1; i >= 0; --i) {
    t.view_.stride[i] = stride;
    stride *= t.view_.shape[i];
  }
  t.storage_ = std::make_shared<Storage>(arena, static_cast<size_t>(n) * dtype_size(dtype), kind);
  t.view_.data = t.storage_->data();
  return t;
}

bool Tensor::contiguous() const {
  int64_t stride = 1;
  for (int i = view_.rank - 1; i >= 0; --i) {
    if (view_.shape[i] != 1 && view_.stride[i] != stride) return false;
    stride *= view_.shape[i];
  }
  return true;
}

Tensor Tensor::columns(int64_t begin, int64_t n) const {
  const int last = view_.rank - 1;
  HONE_CHECK(begin >= 0 && n >= 0 && begin + n <= view_.shape[last]);
  Tensor t = detached();
  t.view_.shape[last] = n;
  if (t.view_.data != nullptr) {
    t.view_.data = static_cast<std::byte*>(t.view_.data) +
                   static_cast<size_t>(begin) * dtype_size(view_.dtype);
  }
  return t;
}

Tensor Tensor::part(int64_t first, std::span<const int64_t> shape) const {
  Tensor t = detached();
  t.view_.rank = static_cast<int>(shape.size());
  int64_t n = 1;
  for (size_t i = shape.size(); i-- > 0; n *= shape[i]) {
    t.view_.shape[i] = shape[i];
    t.view_.stride[i] = n;
  }
  HONE_CHECK(contiguous() && first >= 0 && first + n <= numel());
  if (t.view_.data != nullptr) {
    t.view_.data = static_cast<std::byte*>(t.view_.data) +
                   static_cast<size_t>(first) * dtype_size(view_.dtype);
  }
  return t;
}

Tensor Tensor::heads(int64_t head_dim) const {
  HONE_CHECK(view_.rank == 2 && head_dim > 0 && view_.shape[1] % head_dim == 0);
  Tensor t = *this;
  t.view_.rank = 3;
  t.view_.shape[1] = view_.shape[1] / head_dim;
  t.view_.shape[2] = head_dim;
  t.view_.stride[1] = head_dim;
  t.view_.stride[2] = 1;
  return t;
}

Tensor Tensor::paged(int64_t heads, int64_t rows) const {
  HONE_CHECK(view_.rank == 2 && contiguous() && view_.shape[0] % (heads * rows) == 0);
  Tensor t = *this;
  t.view_.rank = 3;
  // the last head's row of a page's first
  t.view_.shape[0] = std::max<int64_t>(view_.shape[0] - (heads - 1) * rows, 0);
  t.view_.shape[1] = heads;
  t.view_.shape[2] = view_.shape[1];
  t.view_.stride[1] = rows * view_.shape[1];
  t.view_.stride[2] = 1;
  return t;
}

}  // namespace hone
