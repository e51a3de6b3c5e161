#include "exec/params.h"

#include <algorithm>
#include <map>

namespace hone {
using detail::ParamEntry;

namespace {

Tensor tensor_of(const ParamSpec& s, DType t, Arena& arena, MemoryKind kind) {
  return s.shape.size() == 1 ? Tensor::empty(arena, t, {s.shape[0]}, kind)
                             : Tensor::empty(arena, t, {s.shape[0], s.shape[1]}, kind);
}

MemoryKind kind_of(const ParamSpec& s) {
  return s.adapter ? MemoryKind::adapters : MemoryKind::weights;
}

DType grad_dtype(const ParamSpec& s) { return s.format == Format::f64 ? DType::f64 : DType::f32; }

// Gives each entry its part of an array that all of one unit, dtype and kind share.
template <class DTypeOf, class KindOf, class Give>
void lay_flat(const std::vector<ParamEntry*>& entries, Arena& arena, DTypeOf&& dtype_of,
              KindOf&& kind_of, Give&& give) {
  struct Array {
    int64_t elements = 0;
    std::vector<std::pair<ParamEntry*, int64_t>> parts;  // and where they begin
  };
  std::map<std::tuple<int, DType, MemoryKind>, Array> arrays;
  for (ParamEntry* e : entries) {
    const DType t = dtype_of(e->spec);
    Array& a = arrays[{e->spec.unit, t, kind_of(e->spec)}];
    a.parts.emplace_back(e, a.elements);
    const int64_t line = 64 / static_cast<int64_t>(dtype_size(t));
    a.elements += (e->spec.numel() + line - 1) / line * line;
  }
  for (const auto& [key, a] : arrays) {
    const Tensor all = Tensor::empty(arena, std::get<1>(key), {a.elements}, std::get<2>(key));
    for (const auto& [e, first] : a.parts) give(*e, all.part(first, e->spec.shape));
  }
}

}  // namespace

int64_t value_bytes(const std::vector<int64_t>& shape, Format format) {
  if (shape.size() == 1) return shape[0] * static_cast<int64_t>(format_bits(format)) / 8;
  const int64_t granules = (shape[0] + format_granule(format) - 1) / format_granule(format);
  return shape[0] * format_row_bytes(format, shape[1]) +
         granules * format_scale_bytes(format, shape[1]);
}

ParamEntry& ParamStore::entry(ParamId id) const {
  return const_cast<ParamEntry&>(entries_.at(static_cast<size_t>(id)));
}

ParamEntry& ParamStore::unpinned(ParamId id) {
  ParamEntry& e = entry(id);
  HONE_CHECK(e.pins == 0, "a leased parameter's value is moved");
  return e;
}

ParamId ParamStore::add(ParamSpec spec) {
  HONE_CHECK(spec.shape.size() == 1 || spec.shape.size() == 2);
  const ParamId id = count();
  const bool inserted = by_name_.emplace(spec.name, id).second;
  HONE_CHECK(inserted, "parameter registered twice");
  ParamEntry& e = entries_.emplace_back();
  e.id = id;
  e.format = spec.format;
  e.spec = std::move(spec);
  return id;
}

ParamId ParamStore::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? kNoParam : it->second;
}

int ParamStore::count() const { return static_cast<int>(entries_.size()); }
const ParamSpec& ParamStore::spec(ParamId id) const { return entry(id).spec; }
void ParamStore::set_trainable(ParamId id, bool on) { entry(id).spec.trainable = on; }

void ParamStore::place(ParamId id, Format format, Residency& home) {
  ParamEntry& e = unpinned(id);
  e.format = format;
  e.home = &home;
  e.value = Tensor();
  if (std::find(homes_.begin(), homes_.end(), &home) == homes_.end()) homes_.push_back(&home);
  values_changed();
}

Tensor ParamStore::own(ParamId id, Arena& arena, Format format) {
  ParamEntry& e = unpinned(id);
  HONE_CHECK(!e.spec.trainable || format == e.spec.format);
  e.format = format;
  e.home = nullptr;
  e.value = tensor_of(e.spec, format_dtype(e.format), arena, kind_of(e.spec));
  values_changed();
  return e.value;
}

Tensor ParamStore::own_as(ParamId id, Arena& arena, Format format, int64_t bytes) {
  ParamEntry& e = unpinned(id);
  HONE_CHECK(!e.spec.trainable && !e.spec.adapter && e.spec.shape.size() == 2);
  e.format = format;
  e.home = nullptr;
  e.value = Tensor::empty(arena, DType::u8, {bytes}, MemoryKind::weights);
  values_changed();
  return e.value;
}

void ParamStore::own_trainable(Arena& arena) {
  std::vector<ParamEntry*> entries;
  for (const ParamId id : trainable()) entries.push_back(&unpinned(id));
  lay_flat(
      entries, arena, [](const ParamSpec& s) { return format_dtype(s.format); }, kind_of,
      [](ParamEntry& e, Tensor value) {
        e.format = e.spec.format;
        e.home = nullptr;
        e.value = std::move(value);
      });
  values_changed();
}

bool ParamStore::owned(ParamId id) const { return entry(id).value.defined(); }

Tensor ParamStore::value(ParamId id) const {
  const ParamEntry& e = entry(id);
  HONE_CHECK(e.value.defined(), "parameter is not owned");
  return e.value;
}

Format ParamStore::format(ParamId id) const { return entry(id).format; }
int64_t ParamStore::bytes(ParamId id) const {
  return value_bytes(entry(id).spec.shape, entry(id).format);
}

Lease ParamStore::lease(ParamId id) const {
  const ParamEntry& e = entry(id);
  HONE_CHECK(e.home != nullptr || e.value.defined(), "a parameter without a value");
  Lease lease(e);
  const auto& shape = e.spec.shape;
  if (shape.size() == 2) {
    lease.weight_ = contiguous_weight(e.format, e.at.data, e.at.scale, shape[0], shape[1]);
  }
  if (!format_layout(e.format).plain) return lease;
  lease.view_.data = const_cast<void*>(e.at.data);
  lease.view_.dtype = format_dtype(e.format);
  lease.view_.rank = static_cast<int>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) lease.view_.shape[i] = shape[i];
  lease.view_.stride[shape.size() - 1] = 1;
  if (shape.size() == 2) lease.view_.stride[0] = shape[1];
  return lease;
}

void ParamStore::prefetch(int unit) const {
  for (Residency* home : homes_) home->prefetch(unit);
}

void ParamStore::allocate_gradients(Arena& arena) {
  std::vector<ParamEntry*> entries;
  for (const ParamId id : trainable()) {
    if (!entry(id).grad.defined()) entries.push_back(&entry(id));
  }
  lay_flat(
      entries, arena, grad_dtype, [](const ParamSpec&) { return MemoryKind::gradients; },
      [](ParamEntry& e, Tensor grad) { e.grad = std::move(grad); });
}

void ParamStore::release_gradients() {
  for (ParamEntry& e : entries_) e.grad = Tensor();
}

const Tensor& ParamStore::grad(ParamId id) const {
  const ParamEntry& e = entry(id);
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
