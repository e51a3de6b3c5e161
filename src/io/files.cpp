#include "io/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kTag = "file";

std::string reason(int error) { return std::strerror(error); }

[[noreturn]] void write_failed(const fs::path& path, uint64_t needed, int error) {
  std::string space;
  struct statvfs stats;
  if (error == ENOSPC && statvfs(path.parent_path().c_str(), &stats) == 0) {
    space = fmt::format("; {} bytes are free there",
                        static_cast<uint64_t>(stats.f_bavail) * stats.f_frsize);
  }
  const std::string size = needed > 0 ? fmt::format(" ({} bytes)", needed) : "";
  runtime_error(kTag,
                "cannot write {}{}: {}{}; what was there before is unchanged. Free some space or "
                "choose another folder",
                path.string(), size, reason(error), space);
}

fs::path folder_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

void write_all(int fd, std::span<const std::byte> bytes, off_t offset, const fs::path& path,
               uint64_t needed) {
  while (!bytes.empty()) {
    const size_t part = std::min<size_t>(bytes.size(), size_t{1} << 30);
    const ssize_t n = pwrite(fd, bytes.data(), part, offset);
    if (n < 0) {
      if (errno == EINTR) continue;
      write_failed(path, needed, errno);
    }
    if (n == 0) write_failed(path, needed, EIO);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) user_error(kTag, "cannot open {}: {}", path.string(), reason(errno));
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    user_error(kTag, "{} is not a regular file", path.string());
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* at = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    const int error = errno;
    close(fd);
    if (at == MAP_FAILED) {
      runtime_error(kTag, "cannot map {} ({} bytes): {}", path.string(), size_, reason(error));
    }
    data_ = static_cast<const std::byte*>(at);
  } else {
    close(fd);
  }
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::advise(Advice advice, size_t offset, size_t length) const {
  if (!data_ || offset >= size_) return;
  length = std::min(length, size_ - offset);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // Dropping pages must not reach beyond the range; the other hints may.
  const bool inside = advice == Advice::dont_need;
  const size_t begin = inside ? (offset + page - 1) / page * page : offset / page * page;
  size_t end = offset + length;
  if (inside && end != size_) end = end / page * page;
  if (end <= begin) return;
  int value = MADV_NORMAL;
  switch (advice) {
    case Advice::sequential:
      value = MADV_SEQUENTIAL;
      break;
    case Advice::will_need:
      value = MADV_WILLNEED;
      break;
    case Advice::dont_need:
      value = MADV_DONTNEED;
      break;
    case Advice::huge_pages:
      value = MADV_HUGEPAGE;
      break;
  }
  madvise(const_cast<std::byte*>(data_) + begin, end - begin, value);
}

AtomicFile::AtomicFile(const fs::path& path, uint64_t expected_bytes)
    : path_(path), expected_(expected_bytes) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (fs::exists(status) && !fs::is_regular_file(status))
    user_error(kTag, "{} is not a regular file, and would be replaced by one; give another path",
               path.string());
  for (int attempt = 0; attempt < 1000 && fd_ < 0; ++attempt) {
    temporary_ =
        folder_of(path) / fmt::format(".{}.tmp-{}-{}", path.filename().string(), getpid(), attempt);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  if (fd_ < 0) write_failed(path_, expected_, errno);
  if (expected_bytes > 0) {
    // Keeps the size at zero; a file system without this call fills up as it is written.
    if (fallocate(fd_, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(expected_bytes)) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
      const int error = errno;
      close(fd_);
      fd_ = -1;
      unlink(temporary_.c_str());
      write_failed(path_, expected_, error);
    }
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) {
    close(fd_);
    unlink(temporary_.c_str());
  }
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  write_at(end_, bytes);
  end_ += bytes.size();
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  HONE_CHECK(fd_ >= 0, "written after commit()");
  write_all(fd_, bytes, static_cast<off_t>(offset), path_, std::max(expected_, offset));
}

void AtomicFile::commit() {
  HONE_CHECK(fd_ >= 0, "committed twice");
  if (fsync(fd_) != 0) write_failed(path_, expected_, errno);
  const int closed = close(fd_);
  fd_ = -1;
  if (closed != 0) {
    const int error = errno;
    unlink(temporary_.c_str());
    write_failed(path_, expected_, error);
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink(temporary_.c_str());
    write_failed(path_, expected_, error);
  }
  sync_folder(folder_of(path_));
}

std::string read_text_file(const fs::path& path, uint64_t max_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) user_error(kTag, "cannot open {}: {}", path.string(), reason(errno));
  struct stat info;
  std::string text;
  int error = 0;
  bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const bool small = regular && static_cast<uint64_t>(info.st_size) <= max_bytes;
  if (small) {
    text.resize(static_cast<size_t>(info.st_size));
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t n = read(fd, text.data() + done, text.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) error = errno;
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
    text.resize(done);
  }
  close(fd);
  if (!regular) user_error(kTag, "{} is not a regular file", path.string());
  if (!small) {
    user_error(kTag, "{} has {} bytes; such a file has at most {}", path.string(), info.st_size,
               max_bytes);
  }
  if (error != 0) runtime_error(kTag, "cannot read {}: {}", path.string(), reason(error));
  return text;
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  AtomicFile file(path, content.size());
  file.append(content);
  file.commit();
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) runtime_error(kTag, "cannot open folder {}: {}", folder.string(), reason(errno));
  // Some file systems cannot synchronise a folder and say EINVAL.
  const bool failed = fsync(fd) != 0 && errno != EINVAL;
  const int error = errno;
  close(fd);
  if (failed) runtime_error(kTag, "cannot synchronise {}: {}", folder.string(), reason(error));
}

void copy_file_atomically(const fs::path& from, const fs::path& to) {
  const MappedFile source(from);
  AtomicFile file(to, source.size());
  file.append(source.bytes());
  file.commit();
}

void ContentHash::words(const std::byte* at, size_t count) {
  auto mixed = [at = &at](uint64_t lane, size_t i) {
    uint64_t v;
    std::memcpy(&v, *at + 8 * i, 8);
    const uint64_t h = (lane ^ v) * 0x9fb21c651e98df25ull;
    return h ^ (h >> 29);
  };
  uint64_t a = lanes_[0], b = lanes_[1], c = lanes_[2], d = lanes_[3];
  for (; count > 0; --count, at += 32) {
    a = mixed(a, 0);
    b = mixed(b, 1);
    c = mixed(c, 2);
    d = mixed(d, 3);
  }
  lanes_[0] = a;
  lanes_[1] = b;
  lanes_[2] = c;
  lanes_[3] = d;
}

void ContentHash::update(std::span<const std::byte> bytes) {
  length_ += bytes.size();
  const std::byte* at = bytes.data();
  size_t left = bytes.size();
  if (tail_size_ > 0) {
    const size_t take = std::min(left, sizeof tail_ - tail_size_);
    std::memcpy(tail_ + tail_size_, at, take);
    tail_size_ += take;
    at += take;
    left -= take;
    if (tail_size_ < sizeof tail_) return;
    words(tail_, 1);
    tail_size_ = 0;
  }
  words(at, left / 32);
  at += left / 32 * 32;
  left %= 32;
  if (left > 0) std::memcpy(tail_, at, left);
  tail_size_ = left;
}

uint64_t ContentHash::value() const {
  ContentHash last = *this;
  if (tail_size_ > 0) {
    std::memset(last.tail_ + tail_size_, 0, sizeof tail_ - tail_size_);
    last.words(last.tail_, 1);
  }
  uint64_t h = length_;
  for (const uint64_t lane : last.lanes_) {
    h = (h ^ lane) * 0xd6e8feb86659fd93ull;
    h ^= h >> 32;
  }
  return h;
}

uint64_t content_hash(std::span<const std::byte> bytes) {
  ContentHash hash;
  hash.update(bytes);
  return hash.value();
}

}  // namespace hone::io
