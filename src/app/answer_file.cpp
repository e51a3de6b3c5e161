#include "app/answer_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace hone::app {

namespace fs = std::filesystem;

AnswerFile::AnswerFile(const std::string& path, bool resume) : path_(path) {
  const bool to_stdout = path_.empty() || path_ == "-";
  std::error_code code;
  const fs::file_status status = fs::status(path_, code);
  if (!to_stdout && fs::is_directory(status)) user_error("output", "{} is a folder", path_);
  if (to_stdout || (fs::exists(status) && !fs::is_regular_file(status))) {
    if (resume) user_error("flags", "--resume goes on with a file; give --output FILE");
    direct_ = std::make_unique<Output>(path_);
    return;
  }
  partial_ = path_ + ".partial";
  fd_ = ::open(partial_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) user_error("output", "cannot open {}: {}", partial_, std::strerror(errno));
  struct stat info {};
  std::string problem;
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    problem = fmt::format("another run writes {}; give another --output", partial_);
  } else if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    problem = fmt::format("{} is not a regular file", partial_);
  } else if (info.st_size > 0 && !resume) {
    problem = fmt::format(
        "{} has the answers of a run that did not end; go on with --resume, or remove it",
        partial_);
  }
  if (!problem.empty()) {
    ::close(fd_);
    user_error("output", "{}", problem);
  }
  if (resume) find_kept();
}

AnswerFile::~AnswerFile() {
  if (fd_ < 0) return;
  if (size_ == 0) ::unlink(partial_.c_str());
  ::close(fd_);
}

void AnswerFile::failed(const char* what) const {
  runtime_error("output", "{} {}: {}; the answers so far are in it, go on with --resume", what,
                partial_, std::strerror(errno));
}

void AnswerFile::find_kept() {
  before_ = io::MappedFile(partial_);
  const std::string_view text(reinterpret_cast<const char*>(before_.data()), before_.size());
  for (size_t at = text.find('\n'); at != text.npos; at = text.find('\n', at + 1))
    ends_.push_back(at + 1);
  // what follows the last whole line is written over
  size_ = ends_.empty() ? 0 : ends_.back();
  if (::lseek(fd_, static_cast<off_t>(size_), SEEK_SET) < 0) failed("cannot read");
}

std::string_view AnswerFile::kept_line(int64_t line) const {
  const auto i = static_cast<size_t>(line);
  const size_t begin = i == 0 ? 0 : ends_[i - 1];
  return {reinterpret_cast<const char*>(before_.data()) + begin, ends_[i] - begin};
}

void AnswerFile::write(std::string_view line) {
  if (direct_) return direct_->write(line);
  if (next_ < kept()) {
    if (kept_line(next_) != line)
      user_error("output",
                 "{}:{}: this run has another answer, so the one before had other prompts, weights "
                 "or options; give the same ones, or remove the file",
                 partial_, next_ + 1);
    ++next_;
    return;
  }
  if (next_ == kept() && ::ftruncate(fd_, static_cast<off_t>(size_)) != 0) failed("cannot write");
  for (size_t done = 0; done < line.size();) {
    const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) failed("cannot write");
    done += static_cast<size_t>(n);
  }
  size_ += line.size();
  ++next_;
}

void AnswerFile::flush() {
  if (direct_) direct_->flush();
}

void AnswerFile::finish() {
  if (direct_) return direct_->finish();
  if (next_ < kept())
    user_error("output",
               "{} has {} answers, more than these prompts have; give the same prompts, or remove "
               "the file",
               partial_, kept());
  if (::fsync(fd_) != 0) failed("cannot write");
  if (::rename(partial_.c_str(), path_.c_str()) != 0) failed("cannot rename");
  ::close(fd_);
  fd_ = -1;
  const fs::path folder = fs::path(path_).parent_path();
  io::sync_folder(folder.empty() ? fs::path(".") : folder);
}

}  // namespace hone::app
