// The answers of a run that may take hours: what is written stays, whatever ends the run.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "app/terminal.h"
#include "io/files.h"

namespace hone::app {

// Lines that are in FILE.partial as soon as they are written, and in FILE after finish(); or on
// stdout ("-"), or in what isn't a regular file (a pipe, a device). A run that was ended leaves
// FILE.partial, which another one goes on with.
class AnswerFile {
 public:
  // UserError: FILE.partial is there and resume isn't set, or another run writes it; FILE is a
  // folder. resume: the whole lines of FILE.partial are kept.
  AnswerFile(const std::string& path, bool resume);
  AnswerFile(const AnswerFile&) = delete;
  AnswerFile& operator=(const AnswerFile&) = delete;
  ~AnswerFile();  // removes a FILE.partial without lines

  int64_t kept() const { return static_cast<int64_t>(ends_.size()); }
  // The next line that is written is number line, at most kept(). Lines below kept() have to be the
  // kept ones, which shows that both runs do the same: UserError, and the file as it was.
  void begin_at(int64_t line) { next_ = line; }
  void write(std::string_view line);  // with its newline. UserError, RuntimeError, ClosedOutput
  void flush();
  void finish();

 private:
  void find_kept();
  std::string_view kept_line(int64_t line) const;
  [[noreturn]] void failed(const char* what) const;

  std::string path_, partial_;
  std::unique_ptr<Output> direct_;  // null: partial_
  int fd_ = -1;
  io::MappedFile before_;     // FILE.partial as it was
  std::vector<size_t> ends_;  // behind each kept line
  size_t size_ = 0;           // of all whole lines
  int64_t next_ = 0;
};

}  // namespace hone::app
