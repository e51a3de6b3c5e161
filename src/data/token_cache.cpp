#include "data/token_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "data/source.h"

namespace hone::data {

namespace {

constexpr char kMagic[8] = {'H', 'O', 'N', 'E', 'T', 'O', 'K', '2'};
constexpr uint32_t kEntryMagic = 0x79727465;
constexpr size_t kFlushBytes = size_t{256} << 10;
// Less free space than this is left to checkpoints.
constexpr uint64_t kKeepFree = uint64_t{512} << 20;
constexpr uint32_t kMaxPayload = uint32_t{1} << 30;

struct FileHeader {
  char magic[8];
  uint64_t fingerprint;
  uint64_t samples;
  uint64_t check;  // of the fields before
};
struct EntryHeader {
  uint32_t magic;
  uint32_t payload_bytes;
  uint64_t index;
  uint64_t check;  // of the payload and the index
};
static_assert(sizeof(FileHeader) == 32 && sizeof(EntryHeader) == 24);
// Payload: number of tokens, flags (1: cut, 2: not desirable), number of runs, number of sequences
// (0: one); the tokens; the lengths of runs of equal trained[], the first of zeros; the sequences'
// lengths. All 32-bit.

uint64_t header_check(const FileHeader& h) {
  Fingerprint f;
  f.add({reinterpret_cast<const char*>(&h), offsetof(FileHeader, check)});
  return f.value();
}

uint64_t entry_check(uint64_t index, std::string_view payload) {
  Fingerprint f;
  f.add_value(index);
  f.add(payload);
  return f.value();
}

bool pread_all(int fd, void* to, size_t n, uint64_t offset) {
  auto* p = static_cast<char*>(to);
  while (n > 0) {
    const ssize_t got = ::pread(fd, p, n, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    p += got;
    n -= static_cast<size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
  return true;
}

bool pwrite_all(int fd, std::string_view bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(put));
    offset += static_cast<uint64_t>(put);
  }
  return true;
}

void put32(std::string& out, uint64_t v) {
  const auto word = static_cast<uint32_t>(v);
  out.append(reinterpret_cast<const char*>(&word), 4);
}

}  // namespace

TokenCache::TokenCache(const std::string& folder, uint64_t fingerprint, int64_t samples,
                       std::function<void(const std::string&)> warn)
    : warn_(std::move(warn)), offsets_(static_cast<size_t>(samples)) {
  open(folder, fingerprint);
}

TokenCache::~TokenCache() {
  flush();
  if (fd_ >= 0) ::close(fd_);
}

void TokenCache::stop_writing(const std::string& why) {
  if (writable_) warn_(fmt::format("the token cache {} is not written any more: {}", path_, why));
  writable_ = false;
  pending_.clear();
}

void TokenCache::open(const std::string& folder, uint64_t fingerprint) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  path_ = (std::filesystem::path(folder) / fmt::format("{:016x}.tokens", fingerprint)).string();
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  writable_ = fd_ >= 0;
  if (fd_ < 0) fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) {
    warn_(fmt::format("no token cache: {} can't be opened ({})", path_, std::strerror(errno)));
    return;
  }
  if (writable_ && ::flock(fd_, LOCK_EX | LOCK_NB) != 0) writable_ = false;  // another run writes

  FileHeader wanted{};
  std::memcpy(wanted.magic, kMagic, 8);
  wanted.fingerprint = fingerprint;
  wanted.samples = offsets_.size();
  wanted.check = header_check(wanted);
  FileHeader found{};
  if (pread_all(fd_, &found, sizeof found, 0) && std::memcmp(&found, &wanted, sizeof found) == 0) {
    read_entries();
  } else if (writable_) {
    end_ = sizeof wanted;
    if (::ftruncate(fd_, 0) != 0 ||
        !pwrite_all(fd_, {reinterpret_cast<const char*>(&wanted), sizeof wanted}, 0))
      stop_writing(std::strerror(errno));
  }
}

// Walks the headers; what follows the last whole entry is a torn write, and is overwritten.
void TokenCache::read_entries() {
  struct stat st;
  if (::fstat(fd_, &st) != 0) return stop_writing(std::strerror(errno));
  const auto size = static_cast<uint64_t>(st.st_size);
  std::string chunk(size_t{1} << 20, '\0');
  uint64_t at = sizeof(FileHeader), chunk_begin = 0, chunk_end = 0;
  while (at + sizeof(EntryHeader) <= size) {
    if (at < chunk_begin || at + sizeof(EntryHeader) > chunk_end) {
      const auto n = static_cast<size_t>(std::min<uint64_t>(chunk.size(), size - at));
      if (!pread_all(fd_, chunk.data(), n, at)) break;
      chunk_begin = at;
      chunk_end = at + n;
    }
    EntryHeader entry;
    std::memcpy(&entry, chunk.data() + (at - chunk_begin), sizeof entry);
    if (entry.magic != kEntryMagic || entry.payload_bytes > kMaxPayload ||
        entry.index >= offsets_.size() || entry.payload_bytes > size - at - sizeof(EntryHeader))
      break;
    if (offsets_[entry.index] == 0) ++count_;
    offsets_[entry.index] = at;
    at += sizeof(EntryHeader) + entry.payload_bytes;
  }
  end_ = at;
  if (writable_ && end_ < size && ::ftruncate(fd_, static_cast<off_t>(end_)) != 0)
    stop_writing(std::strerror(errno));
}

bool TokenCache::find(int64_t index, Sample& sample) const {
  uint64_t at;
  std::string payload;
  EntryHeader entry;
  {
    const std::lock_guard lock(mutex_);
    at = offsets_[static_cast<size_t>(index)];
    if (at == 0 || fd_ < 0) return false;
    if (at >= end_) {
      const char* p = pending_.data() + (at - end_);
      std::memcpy(&entry, p, sizeof entry);
      payload.assign(p + sizeof entry, entry.payload_bytes);
      at = 0;
    }
  }
  if (at != 0) {
    if (!pread_all(fd_, &entry, sizeof entry, at) || entry.magic != kEntryMagic ||
        entry.payload_bytes > kMaxPayload)
      return false;
    payload.resize(entry.payload_bytes);
    if (!pread_all(fd_, payload.data(), payload.size(), at + sizeof entry)) return false;
  }
  if (entry.index != static_cast<uint64_t>(index) || payload.size() < 16 ||
      entry.check != entry_check(entry.index, payload))
    return false;
  const auto get32 = [&](size_t i) {
    uint32_t word;
    std::memcpy(&word, payload.data() + 4 * i, 4);
    return word;
  };
  const size_t n = get32(0), runs = get32(2), sequences = get32(3);
  if (payload.size() != 4 * (4 + n + runs + sequences)) return false;
  sample = Sample{};
  sample.index = index;
  sample.key = static_cast<uint64_t>(index);
  sample.cut = get32(1) & 1;
  sample.desirable = (get32(1) & 2) == 0;
  sample.tokens.resize(n);
  if (n > 0) std::memcpy(sample.tokens.data(), payload.data() + 16, 4 * n);
  sample.trained.reserve(n);
  for (size_t r = 0; r < runs; ++r) {
    const size_t length = get32(4 + n + r);
    if (length > n - sample.trained.size()) return false;
    sample.trained.insert(sample.trained.end(), length, static_cast<uint8_t>(r & 1));
  }
  if (sample.trained.size() != n) return false;
  size_t in_sequences = 0;
  for (size_t s = 0; s < sequences; ++s) {
    const size_t length = get32(4 + n + runs + s);
    if (length == 0 || length > n - in_sequences) return false;
    in_sequences += length;
    sample.lengths.push_back(static_cast<int32_t>(length));
  }
  if (sequences > 0 && in_sequences != n) return false;
  sample.trained_count = std::count(sample.trained.begin(), sample.trained.end(), uint8_t{1});
  return true;
}

void TokenCache::add(const Sample& sample) {
  std::string payload;
  std::vector<uint32_t> runs;
  uint8_t value = 0;
  size_t begin = 0;
  for (size_t t = 0; t <= sample.trained.size(); ++t) {
    if (t < sample.trained.size() && sample.trained[t] == value) continue;
    runs.push_back(static_cast<uint32_t>(t - begin));
    begin = t;
    value ^= 1;
  }
  payload.reserve(4 * (4 + sample.tokens.size() + runs.size() + sample.lengths.size()));
  put32(payload, sample.tokens.size());
  put32(payload, (sample.cut ? 1u : 0u) | (sample.desirable ? 0u : 2u));
  put32(payload, runs.size());
  put32(payload, sample.lengths.size());
  payload.append(reinterpret_cast<const char*>(sample.tokens.data()), 4 * sample.tokens.size());
  for (const uint32_t run : runs) put32(payload, run);
  for (const int32_t length : sample.lengths) put32(payload, static_cast<uint64_t>(length));
  if (payload.size() > kMaxPayload) return;
  EntryHeader entry{kEntryMagic, static_cast<uint32_t>(payload.size()),
                    static_cast<uint64_t>(sample.index), 0};
  entry.check = entry_check(entry.index, payload);

  const std::lock_guard lock(mutex_);
  if (!writable_) return;
  uint64_t& offset = offsets_[static_cast<size_t>(sample.index)];
  if (offset == 0) ++count_;
  offset = end_ + pending_.size();
  pending_.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  pending_ += payload;
  if (pending_.size() >= kFlushBytes) flush_locked();
}

void TokenCache::flush() {
  const std::lock_guard lock(mutex_);
  flush_locked();
}

void TokenCache::flush_locked() {
  if (!writable_ || pending_.empty()) return;
  std::string why;
  struct statvfs vfs;
  if (::fstatvfs(fd_, &vfs) == 0 &&
      static_cast<uint64_t>(vfs.f_bavail) * vfs.f_frsize < kKeepFree + pending_.size()) {
    why = "less than 512 MiB are free on its disk";
  } else if (!pwrite_all(fd_, pending_, end_)) {
    why = std::strerror(errno);
    if (::ftruncate(fd_, static_cast<off_t>(end_)) != 0) why += ", nor can it be cut back";
  }
  if (!why.empty()) {
    for (uint64_t& offset : offsets_) {
      if (offset >= end_) {
        offset = 0;
        --count_;
      }
    }
    return stop_writing(why);
  }
  end_ += pending_.size();
  pending_.clear();
}

int64_t TokenCache::size() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

}  // namespace hone::data
