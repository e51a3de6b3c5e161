#include "load/mapped.h"

namespace hone::load {

void MappedFiles::add(ParamId id, int unit, const Source& source) {
  const auto index = static_cast<size_t>(id);
  if (values_.size() <= index) values_.resize(index + 1);
  Unit& u = units_[unit];
  HONE_CHECK(!u.checked, "a unit that is in use already");
  u.sources.push_back(source);
  values_[index] = {&u,
                    {.data = source.values->data,
                     .scale = source.scales != nullptr ? source.scales->data : nullptr}};
}

void MappedFiles::check(Unit& unit) {
  if (unit.checked) return;
  check_finite(reader_, unit.sources, pool_);
  unit.checked = unit.fetched = true;
}

void MappedFiles::check_all() {
  for (auto& [number, unit] : units_) check(unit);
}

ParamValue MappedFiles::acquire(ParamId id) {
  const Value& v = values_.at(static_cast<size_t>(id));
  check(*v.unit);
  return v.at;
}

void MappedFiles::prefetch(int unit) {
  const auto found = units_.find(unit);
  if (found == units_.end() || found->second.fetched) return;
  found->second.fetched = true;
  for (const Source& s : found->second.sources) {
    for (const io::TensorEntry* t : {s.values, s.scales}) {
      if (t == nullptr) continue;
      reader_.file_of(t->name).map().advise(io::MappedFile::Advice::will_need, t->offset, t->bytes);
    }
  }
}

}  // namespace hone::load
