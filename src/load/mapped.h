// Values that are used where they lie in mapped files.
#pragma once

#include <map>
#include <vector>

#include "exec/residency.h"
#include "load/source.h"

namespace hone::load {

// A unit's values are checked for NaN and infinity as the first of them is asked for.
class MappedFiles final : public Residency {
 public:
  // Both outlive it.
  MappedFiles(const io::CheckpointReader& reader, ThreadPool& pool)
      : reader_(reader), pool_(pool) {}

  void add(ParamId id, int unit, const Source& source);
  // Checks what wasn't asked for yet. UserError.
  void check_all();

  ParamValue acquire(ParamId id) override;
  void release(ParamId) override {}
  // Has the unit read into memory if it was never used.
  void prefetch(int unit) override;

 private:
  struct Unit {
    std::vector<Source> sources;
    bool checked = false, fetched = false;
  };
  struct Value {
    Unit* unit = nullptr;
    ParamValue at;
  };
  void check(Unit& unit);

  const io::CheckpointReader& reader_;
  ThreadPool& pool_;
  std::map<int, Unit> units_;  // values point into it
  std::vector<Value> values_;  // by ParamId
};

}  // namespace hone::load
