#include "data/source.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "data/foreign_file.h"

namespace hone::data {

namespace {

constexpr size_t kChunk = size_t{1} << 20;

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

bool ends_with_any(std::string_view path, std::initializer_list<std::string_view> ends) {
  std::string lower(path);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::any_of(ends.begin(), ends.end(),
                     [&](std::string_view end) { return lower.ends_with(end); });
}

}  // namespace

void Fingerprint::word(uint64_t w) {
  // One lane a call, in turn.
  uint64_t& lane = state_[(length_ >> 3) & 3];
  lane = std::rotl(lane ^ w, 29) * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
  length_ += 8;
}

void Fingerprint::add(std::string_view bytes) {
  const char* p = bytes.data();
  size_t n = bytes.size();
  while (n > 0) {
    if (tail_size_ == 0) {
      for (; n >= 8; p += 8, n -= 8) {
        uint64_t w;
        std::memcpy(&w, p, 8);
        word(w);
      }
      if (n == 0) return;
    }
    const size_t take = std::min(n, 8 - tail_size_);
    std::memcpy(tail_ + tail_size_, p, take);
    tail_size_ += take;
    p += take;
    n -= take;
    if (tail_size_ == 8) {
      uint64_t w;
      std::memcpy(&w, tail_, 8);
      tail_size_ = 0;
      word(w);
    }
  }
}

void Fingerprint::add_value(uint64_t value) {
  if (tail_size_ > 0) {
    std::memset(tail_ + tail_size_, 0, 8 - tail_size_);
    uint64_t w;
    std::memcpy(&w, tail_, 8);
    const uint64_t used = tail_size_;
    tail_size_ = 0;
    word(w);
    word(used);
  }
  word(value);
}

uint64_t Fingerprint::value() const {
  Fingerprint end = *this;
  end.add_value(length_);
  uint64_t h = 0;
  for (const uint64_t lane : end.state_) {
    h ^= lane;
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93ull;
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93ull;
    h ^= h >> 32;
  }
  return h;
}

void RangeIndex::push(uint64_t begin, uint32_t length) {
  if ((size_ & kMask) == 0) blocks_.push_back(std::make_unique_for_overwrite<Block>());
  blocks_.back()->begin[size_ & kMask] = begin;
  blocks_.back()->length[size_ & kMask] = length;
  ++size_;
}

int64_t RangeIndex::memory_bytes() const {
  return static_cast<int64_t>(blocks_.size() * sizeof(Block));
}

Source::Source(const std::string& path, const SourceOptions& options) : path_(path) {
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) {
    const int error = errno;
    if (error == ENOENT)
      user_error("dataset", "{}: no such file or folder; check the path given to --dataset", path);
    user_error("dataset", "{}: cannot be opened: {}", path, std::strerror(error));
  }
  struct stat st;
  if (::fstat(fd_, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd_);
    user_error("dataset",
               "{}: is not a regular file; a data set is read at random, so write a pipe to a "
               "file first",
               path);
  }
  bytes_ = st.st_size;
  mtime_ns_ = static_cast<int64_t>(st.st_mtim.tv_sec) * 1000000000 + st.st_mtim.tv_nsec;
  try {
    find_container(options);
    switch (container_) {
      case Container::kLines:
        index_lines(options.max_record_bytes);
        break;
      case Container::kArray:
        index_array(options.max_record_bytes);
        break;
      case Container::kText:
        index_text(options.text_piece_bytes);
        break;
    }
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

Source::~Source() {
  if (fd_ >= 0) ::close(fd_);
}

size_t Source::read_at(uint64_t offset, char* to, size_t n) const {
  size_t done = 0;
  while (done < n) {
    const ssize_t got = ::pread(fd_, to + done, n - done, static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR) continue;
      runtime_error("dataset", "{}: reading at byte {} failed: {}", path_, offset + done,
                    std::strerror(errno));
    }
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

void Source::check_unchanged() const {
  struct stat st;
  if (::fstat(fd_, &st) != 0 || st.st_size != bytes_ ||
      static_cast<int64_t>(st.st_mtim.tv_sec) * 1000000000 + st.st_mtim.tv_nsec != mtime_ns_) {
    runtime_error("dataset",
                  "{}: the file was changed while it was in use; start again, and keep data files "
                  "as they are during a run",
                  path_);
  }
}

void Source::find_container(const SourceOptions& options) {
  std::string head(std::min<int64_t>(bytes_, 64 << 10), '\0');
  head.resize(read_at(0, head.data(), head.size()));
  if (head.starts_with("\xEF\xBB\xBF")) start_ = 3;
  const bool text = ends_with_any(path_, {".txt", ".text", ".md"}) ||
                    (options.text && !ends_with_any(path_, {".json", ".jsonl", ".ndjson"}));
  const bool table_as_text = text && ends_with_any(path_, {".csv", ".tsv"});  // if it's asked for
  const std::string foreign = foreign_file(path_, std::string_view(head).substr(start_));
  if (!foreign.empty() && !table_as_text) user_error("dataset", "{} {}", path_, foreign);
  if (text) {
    container_ = Container::kText;
    return;
  }
  size_t at = start_;
  while (at < head.size() && is_blank(head[at])) ++at;
  if (at >= head.size() || head[at] != '[') return;  // lines; what is wrong in them shows there

  // A list: of records, or the first line is a chat list. The first element tells: a message has a
  // role. (A chat list whose first message is longer than the head is told by its beginning.)
  size_t e = at + 1;
  while (e < head.size() && is_blank(head[e])) ++e;
  if (e >= head.size()) return;
  if (head[e] == '[' || head[e] == ']') {
    // A list of chat lists; or an empty list, which is an empty file or an empty conversation.
    size_t after = e + 1;
    while (after < head.size() && is_blank(head[after])) ++after;
    if (head[e] == '[' || after >= head.size()) container_ = Container::kArray;
    return;
  }
  if (head[e] != '{') return;
  // Keys of the first element at its own level.
  int depth = 0;
  bool in_string = false, is_key = false, message = false;
  size_t string_begin = 0;
  for (size_t i = e; i < head.size(); ++i) {
    const char c = head[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
        const std::string_view text(head.data() + string_begin, i - string_begin);
        if (is_key && depth == 1 && (text == "role" || text == "from")) message = true;
        is_key = false;
      }
    } else if (c == '"') {
      in_string = true;
      string_begin = i + 1;
    } else if (c == '{' || c == '[') {
      ++depth;
      is_key = c == '{';
    } else if (c == '}' || c == ']') {
      if (--depth == 0) break;
    } else if (c == ',') {
      is_key = true;
    } else if (c == ':') {
      is_key = false;
    }
  }
  container_ = message ? Container::kLines : Container::kArray;
}

// Calls on_chunk(bytes, offset of its first byte) for the file from start_, and hashes it.
template <class F>
void Source::scan(F&& on_chunk) {
  Fingerprint hash;
  std::string chunk(std::min<size_t>(kChunk, static_cast<size_t>(bytes_) + 1), '\0');
  uint64_t offset = start_;
  for (;;) {
    const size_t n = read_at(offset, chunk.data(), chunk.size());
    if (n == 0) break;
    hash.add({chunk.data(), n});
    on_chunk(std::string_view(chunk.data(), n), offset);
    offset += n;
  }
  check_unchanged();
  hash.add_value(offset);
  content_hash_ = hash.value();
}

void Source::too_long(uint64_t begin, uint64_t length, int64_t line, int64_t max) const {
  user_error("dataset",
             "{}:{}: the record that begins at byte {} is over {} bytes long; a record may have at "
             "most {} bytes (is the file really one JSON value a line?)",
             path_, line, begin, length, max);
}

void Source::index_lines(int64_t max_bytes) {
  uint64_t begin = start_;  // of the line
  int64_t line = 1;
  bool blank = true;
  const auto end_line = [&](uint64_t end) {
    if (!blank) {
      if (end - begin > static_cast<uint64_t>(max_bytes))
        too_long(begin, end - begin - 1, line, max_bytes);
      index_.push(begin, static_cast<uint32_t>(end - begin));
    }
    blank = true;
    ++line;
  };
  scan([&](std::string_view chunk, uint64_t offset) {
    size_t at = 0;
    while (at < chunk.size()) {
      const void* hit = std::memchr(chunk.data() + at, '\n', chunk.size() - at);
      const size_t end =
          hit ? static_cast<size_t>(static_cast<const char*>(hit) - chunk.data()) : chunk.size();
      for (size_t i = at; blank && i < end; ++i) blank = is_blank(chunk[i]);
      if (!hit) {
        if (!blank && offset + end - begin > static_cast<uint64_t>(max_bytes))
          too_long(begin, offset + end - begin - 1, line, max_bytes);
        return;
      }
      end_line(offset + end);
      begin = offset + end + 1;
      at = end + 1;
    }
  });
  end_line(static_cast<uint64_t>(bytes_));
}

void Source::index_array(int64_t max_bytes) {
  // Outside an element: before '[' (kBefore), before an element (kElement, kFirst), after one
  // (kAfter), after ']' (kDone).
  enum { kBefore, kFirst, kElement, kInside, kAfter, kDone } state = kBefore;
  int depth = 0;
  bool in_string = false, escaped = false;
  uint64_t begin = 0, last = 0;  // of the element: first byte, one past its last byte
  const auto fail = [&](uint64_t offset, std::string_view what) {
    user_error("dataset", "{}:{}: {}; expected one JSON array of records: [{{...}}, {{...}}]",
               path_, line_of_offset(offset), what);
  };
  scan([&](std::string_view chunk, uint64_t offset) {
    for (size_t i = 0; i < chunk.size(); ++i) {
      const char c = chunk[i];
      if (state == kInside) {
        if (in_string) {
          if (escaped) {
            escaped = false;
          } else if (c == '\\') {
            escaped = true;
          } else if (c == '"') {
            in_string = false;
            last = offset + i + 1;
          }
          continue;
        }
        if (c == '"') {
          in_string = true;
        } else if (c == '{' || c == '[') {
          ++depth;
        } else if (depth > 0 && (c == '}' || c == ']')) {
          --depth;
        } else if (depth == 0 && (c == ',' || c == ']')) {
          if (last - begin > static_cast<uint64_t>(max_bytes))
            too_long(begin, last - begin - 1, line_of_offset(begin), max_bytes);
          index_.push(begin, static_cast<uint32_t>(last - begin));
          state = c == ',' ? kElement : kDone;
          continue;
        }
        if (!is_blank(c)) last = offset + i + 1;
        continue;
      }
      if (is_blank(c)) continue;
      if (state == kBefore) {
        state = kFirst;
      } else if (state == kFirst && c == ']') {
        state = kDone;
      } else if (state == kFirst || state == kElement) {
        if (c == ',' || c == ']')
          fail(offset + i, fmt::format("found '{}' with nothing before", c));
        state = kInside;
        begin = offset + i;
        last = begin + 1;
        depth = c == '{' || c == '[' ? 1 : 0;
        in_string = c == '"';
      } else {
        fail(offset + i, fmt::format("found '{}' after the end of the array", c));
      }
    }
    if (state == kInside && offset + chunk.size() - begin > static_cast<uint64_t>(max_bytes))
      too_long(begin, offset + chunk.size() - begin - 1, line_of_offset(begin), max_bytes);
  });
  if (state != kDone)
    fail(static_cast<uint64_t>(bytes_), "the file ends inside its array (cut short?)");
}

void Source::index_text(int64_t piece_bytes) {
  // The hash first, over the same bytes.
  scan([](std::string_view, uint64_t) {});
  const size_t piece = static_cast<size_t>(std::max<int64_t>(piece_bytes, 16));
  std::string buffer(piece, '\0');
  uint64_t at = start_;
  while (at < static_cast<uint64_t>(bytes_)) {
    const size_t n = read_at(at, buffer.data(), piece);
    if (n == 0) break;
    std::string_view text(buffer.data(), n);
    size_t take = n;
    if (at + n < static_cast<uint64_t>(bytes_)) {
      // The last paragraph, line, word or character that ends in the second half.
      const auto cut_after = [&](std::string_view what) {
        const size_t hit = text.rfind(what);
        return hit != text.npos && hit + what.size() > n / 2 ? hit + what.size() : size_t{0};
      };
      take = cut_after("\n\n");
      if (take == 0) take = cut_after("\n");
      if (take == 0) take = cut_after(" ");
      if (take == 0) {
        take = n;
        for (int back = 0; back < 4 && take > n - 4; ++back) {
          if ((static_cast<unsigned char>(text[take - 1]) & 0xC0) == 0x80) {
            --take;  // inside a character: leave it to the next piece
          } else {
            if (static_cast<unsigned char>(text[take - 1]) >= 0xC0) --take;
            break;
          }
        }
        if (take == 0) take = n;
      }
    }
    const bool blank =
        std::all_of(text.begin(), text.begin() + static_cast<ptrdiff_t>(take), is_blank);
    if (!blank) index_.push(at, static_cast<uint32_t>(take));
    at += take;
  }
}

void Source::read(int64_t i, std::string& out) const {
  check_unchanged();
  out.resize(index_.length(i));
  if (read_at(index_.begin(i), out.data(), out.size()) != out.size())
    runtime_error("dataset", "{}: the file became shorter while it was in use", path_);
  if (container_ == Container::kText) return;
  while (!out.empty() && is_blank(out.back())) out.pop_back();
  size_t lead = 0;
  while (lead < out.size() && is_blank(out[lead])) ++lead;
  if (lead > 0) out.erase(0, lead);
}

int64_t Source::line(int64_t i) const { return line_of_offset(index_.begin(i)); }

int64_t Source::line_of_offset(uint64_t offset) const {
  std::string chunk(std::min<uint64_t>(kChunk, offset), '\0');
  int64_t line = 1;
  for (uint64_t at = 0; at < offset;) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(kChunk, offset - at));
    const size_t n = read_at(at, chunk.data(), want);
    if (n == 0) break;
    line += std::count(chunk.data(), chunk.data() + n, '\n');
    at += n;
  }
  return line;
}

size_t find_invalid_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const size_t n = text.size();
  size_t i = 0;
  while (i < n) {
    if (i + 8 <= n) {
      uint64_t w;
      std::memcpy(&w, p + i, 8);
      if ((w & 0x8080808080808080ull) == 0) {
        i += 8;
        continue;
      }
    }
    const unsigned char c = p[i];
    if (c < 0x80) {
      ++i;
      continue;
    }
    int more;
    unsigned char low = 0x80, high = 0xBF;  // of the second byte
    if (c >= 0xC2 && c <= 0xDF) {
      more = 1;
    } else if (c >= 0xE0 && c <= 0xEF) {
      more = 2;
      if (c == 0xE0) low = 0xA0;
      if (c == 0xED) high = 0x9F;
    } else if (c >= 0xF0 && c <= 0xF4) {
      more = 3;
      if (c == 0xF0) low = 0x90;
      if (c == 0xF4) high = 0x8F;
    } else {
      return i;
    }
    for (int k = 1; k <= more; ++k) {
      if (i + static_cast<size_t>(k) >= n) return i;
      const unsigned char d = p[i + static_cast<size_t>(k)];
      if (d < low || d > high) return i;
      low = 0x80;
      high = 0xBF;
    }
    i += static_cast<size_t>(more) + 1;
  }
  return std::string_view::npos;
}

}  // namespace hone::data
