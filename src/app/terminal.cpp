#include "app/terminal.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "io/files.h"

namespace hone::app {
namespace {

using Clock = std::chrono::steady_clock;

void to_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody is listening
    text.remove_prefix(static_cast<size_t>(n));
  }
}

int terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
}

}  // namespace

bool stdout_closed() {
  pollfd p{STDOUT_FILENO, POLLOUT, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & POLLERR) != 0;
}

void say(std::string_view line) { to_stderr(std::string(line) + '\n'); }

std::string bytes_text(double bytes) {
  if (bytes >= 1024.0 * 1024 * 1024)
    return fmt::format("{:.2f} GiB", bytes / (1024.0 * 1024 * 1024));
  return fmt::format("{:.0f} MiB", bytes / (1024.0 * 1024));
}

std::string duration_text(double seconds) {
  const auto s = static_cast<int64_t>(std::clamp(seconds, 0.0, 1e9) + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

Output::Output(const std::string& path) {
  if (path.empty() || path == "-") return;
  std::error_code code;
  const auto status = std::filesystem::status(path, code);
  if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) {
    file_ = std::make_unique<io::AtomicFile>(path);
    return;
  }
  stream_ = std::fopen(path.c_str(), "we");
  name_ = path;
  if (stream_ == nullptr) user_error("output", "cannot open {}: {}", path, std::strerror(errno));
}
Output::~Output() {
  if (stream_ != stdout) std::fclose(stream_);
}

void Output::write(std::string_view text) {
  if (file_) {
    file_->append(text);
  } else if (std::fwrite(text.data(), 1, text.size(), stream_) != text.size()) {
    failed();
  }
}

void Output::flush() {
  if (!file_ && std::fflush(stream_) != 0) failed();
}

void Output::finish() {
  flush();
  if (file_) file_->commit();
}

void Output::failed() const {
  if (errno == EPIPE) throw ClosedOutput();
  runtime_error("output", "writing to {} failed: {}", name_, std::strerror(errno));
}

ProgressLine::ProgressLine(std::string unit)
    : unit_(std::move(unit)), terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (terminal_ && !line_.empty()) to_stderr("\n");
}

void ProgressLine::clear() {
  if (terminal_ && !line_.empty()) to_stderr("\r\x1b[K");
}

void ProgressLine::say(const std::string& line) {
  clear();
  to_stderr(line + '\n');
  if (terminal_ && !line_.empty()) to_stderr(line_);
}

void ProgressLine::update(int64_t done, int64_t total, const std::string& text) {
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
  const auto now = Clock::now();
  const double since = std::chrono::duration<double>(now - shown_).count();
  const bool last = done >= total;
  if (!terminal_) {
    // The first, the last, every twentieth of the way, and one in half a minute.
    if (shown_share_ >= 0 && !last && share - shown_share_ < 0.05 && since < 30) return;
    to_stderr(fmt::format("{} {}/{}  {}\n", unit_, done, total, text));
  } else {
    if (shown_share_ >= 0 && !last && since < 0.1) return;
    constexpr int kBar = 20;
    const int filled = static_cast<int>(share * kBar);
    std::string bar;
    for (int i = 0; i < kBar; ++i) bar += i < filled ? '#' : '.';
    std::string line = fmt::format("[{}] {}/{}  {}", bar, done, total, text);
    const auto width = static_cast<size_t>(std::max(20, terminal_width() - 1));
    if (line.size() > width) line.resize(width);
    line_ = "\r\x1b[K" + line;
    to_stderr(line_);
    if (last) {  // it stays above what is said later
      to_stderr("\n");
      line_.clear();
    }
  }
  shown_ = now;
  shown_share_ = share;
}

}  // namespace hone::app
