// Event files that TensorBoard reads: scalars and texts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace hone::io {

// CRC-32C (Castagnoli), and as record framing stores it (rotated, offset).
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

class EventWriter {
 public:
  // Creates FOLDER/events.out.tfevents.<seconds>.<host>.<pid>.<n>. With first_step > 0 (a resumed
  // run) events of earlier files at first_step and later are superseded. RuntimeError if the folder
  // cannot be written.
  explicit EventWriter(const std::filesystem::path& folder, int64_t first_step = 0);
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;
  ~EventWriter();

  void scalar(std::string_view tag, double value, int64_t step);
  // Shown as Markdown. Bytes that are not UTF-8 are replaced.
  void text(std::string_view tag, std::string_view text, int64_t step);
  // Every event is handed to the operating system at once; this makes them durable too.
  void flush();

  const std::filesystem::path& path() const { return path_; }

 private:
  void record(std::string_view payload);
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace hone::io
