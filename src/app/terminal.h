// What people see: lines on stderr, a progress line, and results on stdout.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <string_view>

namespace hone::io {
class AtomicFile;
}

namespace hone::app {

// The reader of stdout is gone: nothing is left to do, and nothing is wrong.
class ClosedOutput : public std::exception {};
bool stdout_closed();

// One line on stderr.
void say(std::string_view line);

std::string bytes_text(double bytes);       // "1.2 GiB"
std::string duration_text(double seconds);  // "1:02:03", "4:05"

// Where results go: stdout, or a file that is in place, whole, after finish(), or what isn't a
// regular file (a pipe, a device).
class Output {
 public:
  explicit Output(const std::string& path = "-");
  ~Output();
  void write(std::string_view text);  // RuntimeError, ClosedOutput
  void flush();
  void finish();

 private:
  [[noreturn]] void failed() const;

  std::unique_ptr<io::AtomicFile> file_;
  std::FILE* stream_ = stdout;
  std::string name_ = "stdout";
};

// The state of a long run: on a terminal one line that is written again and again, else a plain
// line now and then.
class ProgressLine {
 public:
  // unit: what is counted, in plain lines.
  explicit ProgressLine(std::string unit = "step");
  ~ProgressLine();
  // text: after the bar. done of total; the last one always shows.
  void update(int64_t done, int64_t total, const std::string& text);
  void say(const std::string& line);  // above the progress line

 private:
  void clear();
  std::string unit_;
  bool terminal_ = false;
  std::string line_;
  std::chrono::steady_clock::time_point shown_{};
  double shown_share_ = -1;
};

}  // namespace hone::app
