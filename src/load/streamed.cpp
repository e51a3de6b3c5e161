#include "load/streamed.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/error.h"

namespace hone::load {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPiece = 4 << 20;  // of one read
constexpr uint64_t kGap = 256 << 10;  // bytes between two tensors that are read with them

uint64_t down(uint64_t n) { return n / kPage * kPage; }
uint64_t up(uint64_t n) { return down(n + kPage - 1); }

std::vector<const io::TensorEntry*> tensors_of(const Source& s) {
  if (s.scales == nullptr) return {s.values};
  return {s.values, s.scales};
}

// Direct where the file system has that: pages that pass through the system's cache would push out
// others.
int open_file(const std::filesystem::path& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (fd < 0 && errno == EINVAL) fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) runtime_error("weights", "cannot open {}: {}", path.string(), std::strerror(errno));
  return fd;
}

}  // namespace

StreamedFiles::StreamedFiles(const io::CheckpointReader& reader, size_t budget)
    : reader_(reader), budget_(budget) {}

StreamedFiles::~StreamedFiles() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    to_read_.notify_all();
    thread_.join();
  }
  for (const int fd : files_) ::close(fd);
  for (auto& [number, unit] : units_) {
    if (unit.buffer.data != nullptr) free_.push_back(unit.buffer);
  }
  for (const Buffer& b : free_) ::munmap(b.data, b.bytes);
}

void StreamedFiles::add(ParamId id, int unit, const Source& source) {
  HONE_CHECK(!thread_.joinable());
  Unit& u = units_[unit];
  u.number = unit;
  u.values.emplace_back(id, source);
  last_ = std::max(last_, unit);
}

void StreamedFiles::keep(int unit) {
  const auto found = units_.find(unit);
  if (found != units_.end()) found->second.kept = true;
}

size_t StreamedFiles::file_index(const io::TensorEntry& tensor) const {
  return static_cast<size_t>(&reader_.file_of(tensor.name) - reader_.files().data());
}

// Tensors that lie near each other are read together.
void StreamedFiles::lay_out(Unit& unit) {
  struct Piece {
    size_t file;
    uint64_t begin, end;
  };
  if (!unit.extents.empty()) return;
  std::vector<Piece> pieces;
  for (const auto& [id, source] : unit.values) {
    for (const io::TensorEntry* t : tensors_of(source))
      pieces.push_back({file_index(*t), down(t->offset), up(t->offset + t->bytes)});
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return std::pair(a.file, a.begin) < std::pair(b.file, b.begin);
  });
  for (const Piece& p : pieces) {
    if (!unit.extents.empty()) {
      Extent& e = unit.extents.back();
      if (e.file == p.file && p.begin <= e.offset + e.bytes + kGap) {
        e.bytes = std::max(e.bytes, p.end - e.offset);
        unit.bytes = e.place + e.bytes;
        continue;
      }
    }
    unit.extents.push_back(
        {.file = p.file, .offset = p.begin, .bytes = p.end - p.begin, .place = unit.bytes});
    unit.bytes += p.end - p.begin;
  }
}

size_t StreamedFiles::place_of(const Unit& unit, const io::TensorEntry& tensor) const {
  const size_t file = file_index(tensor);
  for (const Extent& e : unit.extents) {
    if (e.file == file && e.offset <= tensor.offset && tensor.offset < e.offset + e.bytes)
      return e.place + static_cast<size_t>(tensor.offset - e.offset);
  }
  HONE_CHECK(false, "a tensor outside of its unit");
}

size_t StreamedFiles::least_for(size_t kept, std::vector<size_t> others) {
  std::sort(others.rbegin(), others.rend());
  others.resize(2);
  return kept + others[0] + others[1];
}

size_t StreamedFiles::least() {
  size_t kept = 0;
  std::vector<size_t> others;
  for (auto& [number, u] : units_) {
    lay_out(u);
    if (u.kept) {
      kept += u.bytes;
    } else {
      others.push_back(u.bytes);
    }
  }
  return least_for(kept, std::move(others));
}

void StreamedFiles::start() {
  for (auto& [number, unit] : units_) {
    lay_out(unit);
    for (const auto& [id, source] : unit.values) {
      if (values_.size() <= static_cast<size_t>(id)) values_.resize(static_cast<size_t>(id) + 1);
      Value& v = values_[static_cast<size_t>(id)];
      v = {.unit = &unit,
           .data = place_of(unit, *source.values),
           .scaled = source.scales != nullptr};
      if (v.scaled) v.scale = place_of(unit, *source.scales);
    }
  }
  if (budget_ < least()) {
    user_error("memory",
               "{:.3f} GiB for weights that are read from disk as they are needed is not enough: "
               "the largest parts of the model need {:.3f} GiB at a time",
               static_cast<double>(budget_) / (1 << 30), static_cast<double>(least()) / (1 << 30));
  }
  for (const io::SafetensorsFile& f : reader_.files()) files_.push_back(open_file(f.path()));
  thread_ = std::thread([this] { work(); });
}

ParamValue StreamedFiles::acquire(ParamId id) {
  const Value& v = values_.at(static_cast<size_t>(id));
  Unit& u = *v.unit;
  std::unique_lock lock(mutex_);
  if (!u.kept) move_to(u.number);
  if (u.buffer.data == nullptr) {
    const auto begin = std::chrono::steady_clock::now();
    ++counters_.waits;
    wanted_ = &u;
    to_read_.notify_all();
    was_read_.wait(lock, [&] { return u.buffer.data != nullptr || u.error; });
    wanted_ = nullptr;
    counters_.seconds_waited +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (u.error) std::rethrow_exception(u.error);
  }
  ++u.pins;
  return {.data = u.buffer.data + v.data, .scale = v.scaled ? u.buffer.data + v.scale : nullptr};
}

void StreamedFiles::release(ParamId id) {
  const std::lock_guard lock(mutex_);
  Unit& u = *values_.at(static_cast<size_t>(id)).unit;
  if (--u.pins == 0) to_read_.notify_all();  // there may be room now
}

void StreamedFiles::move_to(int unit) {
  if (unit == at_) return;
  if (unit > at_) {
    up_ = true;
  } else if (up_) {
    turns_ = unit == at_ - 1;  // else a pass begins anew
    up_ = !turns_;
  }
  at_ = unit;
  to_read_.notify_all();
}

// Units that are used before this one is.
int StreamedFiles::steps_until(int unit) const {
  if (!turns_) return unit >= at_ ? unit - at_ : last_ + 1 - at_ + unit;
  if (up_) return unit >= at_ ? unit - at_ : last_ - at_ + last_ - unit;
  return unit <= at_ ? at_ - unit : at_ + unit;
}

StreamedFiles::Unit* StreamedFiles::next_to_read() {
  if (wanted_ != nullptr && wanted_->buffer.data == nullptr && !wanted_->error) return wanted_;
  Unit* next = nullptr;
  for (auto& [number, u] : units_) {
    if (u.buffer.data != nullptr || u.error) continue;
    if (next == nullptr || steps_until(number) < steps_until(next->number)) next = &u;
  }
  return next;
}

StreamedFiles::Unit* StreamedFiles::victim() const {
  const Unit* last = nullptr;
  for (const auto& [number, u] : units_) {
    if (u.kept || u.pins != 0 || u.buffer.data == nullptr) continue;
    if (last == nullptr || steps_until(number) > steps_until(last->number)) last = &u;
  }
  return const_cast<Unit*>(last);
}

// Room for a unit, if what must go for it is needed later than it (or somebody waits for it).
bool StreamedFiles::make_room(const Unit& unit, bool urgent, Buffer& out) {
  while (true) {
    for (size_t i = 0; i < free_.size(); ++i) {
      if (free_[i].bytes < unit.bytes || free_[i].bytes > unit.bytes + unit.bytes / 4) continue;
      out = free_[i];
      free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(i));
      return true;
    }
    if (allocated_ + unit.bytes <= budget_) {
      void* p =
          ::mmap(nullptr, unit.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED)
        runtime_error("memory", "the system has no {} bytes for weights", unit.bytes);
      out = {static_cast<std::byte*>(p), unit.bytes};
      allocated_ += unit.bytes;
      return true;
    }
    if (!free_.empty()) {
      ::munmap(free_.back().data, free_.back().bytes);
      allocated_ -= free_.back().bytes;
      free_.pop_back();
      continue;
    }
    Unit* v = victim();
    if (v == nullptr || (!urgent && steps_until(v->number) <= steps_until(unit.number)))
      return false;
    free_.push_back(std::exchange(v->buffer, {}));
  }
}

void StreamedFiles::read(const Unit& unit, const Buffer& buffer) const {
  for (const Extent& e : unit.extents) {
    const std::filesystem::path& path = reader_.files()[e.file].path();
    const uint64_t size = reader_.files()[e.file].map().size();
    const uint64_t end = std::min(e.offset + e.bytes, size);
    for (uint64_t at = e.offset; at < end;) {
      const ssize_t n = ::pread(files_[e.file], buffer.data + e.place + (at - e.offset),
                                std::min(kPiece, e.offset + e.bytes - at), static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        runtime_error("weights", "cannot read {}: {}", path.string(), std::strerror(errno));
      if (n == 0 || (at + static_cast<uint64_t>(n) < end && n % static_cast<ssize_t>(kPage) != 0)) {
        runtime_error("weights",
                      "{} ends at byte {}, but had {} when the run began: it was cut while it was "
                      "used",
                      path.string(), at + static_cast<uint64_t>(n), size);
      }
      at += static_cast<uint64_t>(n);
    }
  }
}

void StreamedFiles::check(const Unit& unit, const Buffer& buffer) const {
  for (const auto& [id, source] : unit.values) {
    for (const io::TensorEntry* t : tensors_of(source)) {
      io::TensorEntry there = *t;
      there.data = buffer.data + place_of(unit, *t);
      io::refuse_nonfinite(there, reader_.file_of(t->name).path());
    }
  }
}

void StreamedFiles::work() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    Unit* u = next_to_read();
    Buffer buffer;
    try {
      if (u == nullptr || !make_room(*u, u == wanted_, buffer)) {
        HONE_CHECK(u == nullptr || u != wanted_, "more weights are in use than the budget holds");
        to_read_.wait(lock);
        continue;
      }
      lock.unlock();
      read(*u, buffer);
      if (!u->checked) check(*u, buffer);
      lock.lock();
      u->checked = true;
      u->buffer = buffer;
      ++counters_.units_read;
      for (const Extent& e : u->extents) counters_.bytes_read += e.bytes;
    } catch (...) {
      if (!lock.owns_lock()) lock.lock();
      u->error = std::current_exception();
      if (buffer.data != nullptr) free_.push_back(buffer);
    }
    was_read_.notify_all();
  }
}

StreamedFiles::Counters StreamedFiles::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

}  // namespace hone::load
