// A small value handle: shared storage, dtype, shape, strides, and the tape's gradient slot.
// Kernels never see it, only its View.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>

#include "core/error.h"
#include "tensor/arena.h"
#include "tensor/view.h"

namespace hone {

// A block of an arena, given back with the last handle.
class Storage {
 public:
  Storage(Arena& arena, size_t bytes, MemoryKind kind)
      : arena_(&arena), bytes_(bytes), kind_(kind), offset_(arena.allocate(bytes, kind)) {}
  ~Storage() { arena_->free(offset_, bytes_, kind_); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  void* data() const { return arena_->address(offset_); }

 private:
  Arena* arena_;
  size_t bytes_;
  MemoryKind kind_;
  size_t offset_;
};

class Tensor {
 public:
  Tensor() = default;
  // Contiguous, contents undefined.
  static Tensor empty(Arena& arena, DType dtype, std::initializer_list<int64_t> shape,
                      MemoryKind kind = MemoryKind::activations);

  bool defined() const { return storage_ != nullptr; }
  const View& view() const { return view_; }
  DType dtype() const { return view_.dtype; }
  int rank() const { return view_.rank; }
  int64_t dim(int i) const { return view_.shape[i]; }
  int64_t numel() const { return view_.numel(); }
  size_t bytes() const { return static_cast<size_t>(numel()) * dtype_size(view_.dtype); }
  bool contiguous() const;
  // True if no other handle (or a slice of it) shares the storage.
  bool unique() const { return storage_.use_count() == 1; }

  // Columns [begin, begin + n) of the last dim; shares storage, no slot.
  Tensor columns(int64_t begin, int64_t n) const;
  // Elements from `first` on of a contiguous tensor, as a contiguous one of this shape (1 or 2
  // dims); shares storage, no slot.
  Tensor part(int64_t first, std::span<const int64_t> shape) const;
  // [T, H * D] seen as [T, H, D] (any row stride).
  Tensor heads(int64_t head_dim) const;
  // [P * H * R, D] contiguous, pages of R rows for each of H heads in turn, seen as [S, H, D]: row
  // r of page p and head h is [p * H * R + r, h].
  Tensor paged(int64_t heads, int64_t rows) const;
  Tensor detached() const {
    Tensor t = *this;
    t.slot_ = -1;
    return t;
  }

  // Gradient slot on the tape that made it; -1: no gradient flows through it.
  int slot() const { return slot_; }
  void set_slot(int slot) { slot_ = slot; }
  bool requires_grad() const { return slot_ >= 0; }

 private:
  std::shared_ptr<Storage> storage_;
  View view_;
  int slot_ = -1;
};

}  // namespace hone
