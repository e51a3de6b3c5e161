// Values that are read from disk as they are needed, into a cache with a budget.
#pragma once

#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "exec/residency.h"
#include "load/source.h"

namespace hone::load {

// Units are read whole, by direct I/O where the file system has it, on a thread of its own, ahead
// of their use. What is needed last is evicted first: the order of use is that of a model's passes,
// which go up through the units and then either down again (backward) or begin anew; which of the
// two is seen from the units that are asked for. A unit's values are checked for NaN and infinity
// when it is read for the first time.
class StreamedFiles final : public Residency {
 public:
  // budget: bytes of memory it may hold. reader outlives it.
  StreamedFiles(const io::CheckpointReader& reader, size_t budget);
  ~StreamedFiles() override;

  void add(ParamId id, int unit, const Source& source);
  // A unit that is read once and stays (used at both ends of a pass). After its values.
  void keep(int unit);
  // After the last add: begins to read. UserError if the budget is less than least().
  void start();
  // What is kept, and room for the two largest other units: one is used, one is read.
  size_t least();
  static size_t least_for(size_t kept, std::vector<size_t> others);  // sizes of units

  ParamValue acquire(ParamId id) override;
  void release(ParamId id) override;
  void prefetch(int) override {}  // it reads ahead as far as there is room

  struct Counters {
    uint64_t bytes_read = 0;
    uint64_t units_read = 0;
    uint64_t waits = 0;  // times that a value was asked for before it was there
    double seconds_waited = 0;
  };
  Counters counters() const;

 private:
  // A run of bytes of a file that holds one tensor or several.
  struct Extent {
    size_t file = 0;
    uint64_t offset = 0, bytes = 0;  // of whole pages
    size_t place = 0;                // in the unit's buffer
  };
  struct Buffer {
    std::byte* data = nullptr;
    size_t bytes = 0;
  };
  struct Unit {
    int number = 0;
    std::vector<std::pair<ParamId, Source>> values;
    std::vector<Extent> extents;
    size_t bytes = 0;  // of its buffer
    bool kept = false, checked = false;
    Buffer buffer;  // with data: its values are there
    int pins = 0;
    std::exception_ptr error;
  };
  struct Value {
    Unit* unit = nullptr;
    size_t data = 0, scale = 0;  // places in the unit's buffer
    bool scaled = false;
  };

  void lay_out(Unit& unit);  // once
  size_t place_of(const Unit& unit, const io::TensorEntry& tensor) const;
  size_t file_index(const io::TensorEntry& tensor) const;
  void move_to(int unit);
  int steps_until(int unit) const;
  Unit* next_to_read();
  bool make_room(const Unit& unit, bool urgent, Buffer& out);
  Unit* victim() const;
  void read(const Unit& unit, const Buffer& buffer) const;
  void check(const Unit& unit, const Buffer& buffer) const;
  void work();

  const io::CheckpointReader& reader_;
  size_t budget_;
  std::vector<int> files_;     // descriptors, as reader_.files()
  std::map<int, Unit> units_;  // values point into it
  std::vector<Value> values_;  // by ParamId
  int last_ = 0;               // unit

  mutable std::mutex mutex_;
  std::condition_variable to_read_, was_read_;
  bool stop_ = false;
  Unit* wanted_ = nullptr;  // somebody waits for it
  int at_ = 0;              // the unit in use
  bool up_ = true, turns_ = false;
  std::vector<Buffer> free_;
  size_t allocated_ = 0;
  Counters counters_;
  std::thread thread_;
};

}  // namespace hone::load
