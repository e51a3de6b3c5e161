#include "exec/params.h"

namespace hone {

ParamId ParamStore::add(ParamSpec spec) {
  HONE_CHECK(spec.shape.size() == 1 || spec.shape.size() == 2);
  const ParamId id = count();
  const bool inserted = by_name_.emplace(spec.name, id).second;
  HONE_CHECK(inserted, "parameter registered twice");
  entries_.emplace_back().spec = std::move(spec);
  return id;
}

ParamId ParamStore::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? kNoParam : it->second;
}

void ParamStore::set_format(ParamId id, Format format) {
  HONE_CHECK(!has_value(id));
  entries_.at(static_cast<size_t>(id)).spec.format = format;
}

ParamStore::Entry& ParamStore::unpinned(ParamId id) {
  Entry& e = entries_.at(static_cast<size_t>(id));
  HONE_CHECK(e.pins == 0, "a leased parameter's value is moved");
  return e;
}

void ParamStore::bind(ParamId id, const void* data) {
  unpinned(id).bound = data;
  values_changed();
}

Tensor ParamStore::own(ParamId id, Arena& arena) {
  Entry& e = unpinned(id);
  values_changed();
  const DType t = format_dtype(e.spec.format);
  const MemoryKind kind = e.spec.adapter ? MemoryKind::adapters : MemoryKind::weights;
  e.value = e.spec.shape.size() == 1
                ? Tensor::empty(arena, t, {e.spec.shape[0]}, kind)
                : Tensor::empty(arena, t, {e.spec.shape[0], e.spec.shape[1]}, kind);
  e.bound = nullptr;
  return e.value;
}

Tensor ParamStore::own_as(ParamId id, Arena& arena, Format format, int64_t bytes) {
  Entry& e = unpinned(id);
  values_changed();
  HONE_CHECK(!e.spec.trainable && !e.spec.adapter && e.spec.shape.size() == 2);
  e.spec.format = format;
  e.value = Tensor::empty(arena, DType::u8, {bytes}, MemoryKind::weights);
  e.bound = nullptr;
  return e.value;
}

bool ParamStore::has_value(ParamId id) const {
  const Entry& e = entries_.at(static_cast<size_t>(id));
  return e.bound != nullptr || e.value.defined();
}

Tensor ParamStore::value(ParamId id) const {
  const Entry& e = entries_.at(static_cast<size_t>(id));
  HONE_CHECK(e.value.defined(), "parameter is not owned");
  return e.value;
}

Lease ParamStore::lease(ParamId id) const {
  const Entry& e = entries_.at(static_cast<size_t>(id));
  const void* data = e.value.defined() ? e.value.view().data : e.bound;
  Lease lease(&e.pins);
  const auto& shape = e.spec.shape;
  if (shape.size() == 2) {
    lease.weight_ = {.data = data,
                     .rows = shape[0],
                     .cols = shape[1],
                     .stride_bytes = format_row_bytes(e.spec.format, shape[1]),
                     .format = e.spec.format};
  }
  if (!format_layout(e.spec.format).plain) return lease;
  lease.view_.data = const_cast<void*>(data);
  lease.view_.dtype = format_dtype(e.spec.format);
  lease.view_.rank = static_cast<int>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) lease.view_.shape[i] = shape[i];
  lease.view_.stride[shape.size() - 1] = 1;
  if (shape.size() == 2) lease.view_.stride[0] = shape[1];
  return lease;
}

void ParamStore::allocate_gradients(Arena& arena) {
  for (Entry& e : entries_) {
    if (!e.spec.trainable || e.grad.defined()) continue;
    const DType t = e.spec.format == Format::f64 ? DType::f64 : DType::f32;
    e.grad =
        e.spec.shape.size() == 1
            ? Tensor::empty(arena, t, {e.spec.shape[0]}, MemoryKind::gradients)
            : Tensor::empty(arena, t, {e.spec.shape[0], e.spec.shape[1]}, MemoryKind::gradients);
  }
}

void ParamStore::release_gradients() {
  for (Entry& e : entries_) e.grad = Tensor();
}

const Tensor& ParamStore::grad(ParamId id) const {
  const Entry& e = entries_.at(static_cast<size_t>(id));
  HONE_CHECK(e.grad.defined(), "no gradient was allocated");
  return e.grad;
}

std::vector<ParamId> ParamStore::trainable() const {
  std::vector<ParamId> ids;
  for (ParamId id = 0; id < count(); ++id) {
    if (spec(id).trainable) ids.push_back(id);
  }
  return ids;
}

}  // namespace hone
