#include "io/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"
#include "event.pb.h"

namespace hone::io {
namespace {

constexpr std::string_view kTag = "tensorboard";

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) ? 0x82f63b78u : 0u);
    table[i] = c;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = make_table();

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Replaces what is not UTF-8, which the format's string fields must be.
std::string utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80                   ? 1
                          : lead >= 0xc2 && lead < 0xe0 ? 2
                          : lead >= 0xe0 && lead < 0xf0 ? 3
                          : lead >= 0xf0 && lead < 0xf5 ? 4
                                                        : 0;
    bool good = length > 0 && i + length <= text.size();
    uint32_t point = length == 2 ? lead & 31u : length == 3 ? lead & 15u : lead & 7u;
    for (size_t j = 1; good && j < length; ++j) {
      const auto c = static_cast<unsigned char>(text[i + j]);
      good = (c & 0xc0) == 0x80;
      point = (point << 6) | (c & 63u);
    }
    if (good && length == 3) good = point >= 0x800 && (point < 0xd800 || point > 0xdfff);
    if (good && length == 4) good = point >= 0x10000 && point <= 0x10ffff;
    if (good) {
      out += text.substr(i, length);
      i += length;
    } else {
      out += "\xef\xbf\xbd";
      ++i;
    }
  }
  return out;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t c = 0xffffffffu;
  for (const char byte : bytes) {
    c = (c >> 8) ^ kTable[(c ^ static_cast<unsigned char>(byte)) & 255u];
  }
  return c ^ 0xffffffffu;
}

uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t c = crc32c(bytes);
  return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

EventWriter::EventWriter(const std::filesystem::path& folder, int64_t first_step) {
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) runtime_error(kTag, "cannot create {}: {}", folder.string(), code.message());
  char host[256] = "host";
  gethostname(host, sizeof host - 1);
  for (char* c = host; *c; ++c) {
    if (*c == '/') *c = '_';
  }
  const double time = now();
  // TensorBoard reads a folder's files in the order of their names.
  for (int n = 0; fd_ < 0 && n < 10000; ++n) {
    path_ = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(time),
                                 host, getpid(), n);
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  if (fd_ < 0) runtime_error(kTag, "cannot create {}: {}", path_.string(), std::strerror(errno));
  event::Event version;
  version.set_wall_time(time);
  version.set_file_version("brain.Event:2");
  record(version.SerializeAsString());
  if (first_step > 0) {
    event::Event start;
    start.set_wall_time(time);
    start.set_step(first_step);
    start.mutable_session_log()->set_status(event::SessionLog::START);
    record(start.SerializeAsString());
  }
}

EventWriter::~EventWriter() {
  if (fd_ >= 0) close(fd_);
}

void EventWriter::record(std::string_view payload) {
  const uint64_t length = payload.size();
  std::string frame(reinterpret_cast<const char*>(&length), 8);
  const uint32_t length_crc = masked_crc32c(frame);
  frame.append(reinterpret_cast<const char*>(&length_crc), 4);
  frame += payload;
  const uint32_t payload_crc = masked_crc32c(payload);
  frame.append(reinterpret_cast<const char*>(&payload_crc), 4);
  const off_t begin = lseek(fd_, 0, SEEK_END);
  size_t done = 0;
  while (done < frame.size()) {
    const ssize_t n = write(fd_, frame.data() + done, frame.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = n < 0 ? errno : EIO;
      // Readers stop at a torn record.
      if (begin >= 0 && ftruncate(fd_, begin) != 0) {
      }
      runtime_error(kTag, "cannot write {}: {}; free some space", path_.string(),
                    std::strerror(error));
    }
    done += static_cast<size_t>(n);
  }
}

void EventWriter::scalar(std::string_view tag, double value, int64_t step) {
  event::Event e;
  e.set_wall_time(now());
  e.set_step(step);
  event::Summary::Value* entry = e.mutable_summary()->add_value();
  entry->set_tag(utf8(tag));
  entry->set_simple_value(static_cast<float>(value));
  record(e.SerializeAsString());
}

void EventWriter::text(std::string_view tag, std::string_view text, int64_t step) {
  event::Event e;
  e.set_wall_time(now());
  e.set_step(step);
  event::Summary::Value* entry = e.mutable_summary()->add_value();
  entry->set_tag(utf8(tag));
  entry->mutable_metadata()->mutable_plugin_data()->set_plugin_name("text");
  event::TensorProto* tensor = entry->mutable_tensor();
  constexpr int kString = 7;
  tensor->set_dtype(kString);
  tensor->mutable_tensor_shape()->add_dim()->set_size(1);
  tensor->add_string_val(utf8(text));
  record(e.SerializeAsString());
}

void EventWriter::flush() {
  if (fdatasync(fd_) != 0 && errno != EINVAL) {
    runtime_error(kTag, "cannot write {}: {}", path_.string(), std::strerror(errno));
  }
}

}  // namespace hone::io
