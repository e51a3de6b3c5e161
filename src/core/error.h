// Errors. Two kinds cross the program, both as exceptions that only main catches:
//   UserError      the user's mistake; exit code 2. Text: what, the value, what to do.
//   RuntimeError   the environment failed (disk full, no memory, a file that vanished); exit
//   code 1. InternalError  a bug of ours; carries file and line, no input can cause it; exit
//   code 1.
// Kernels do not throw: they return Status.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace hone {

class UserError : public std::runtime_error {
 public:
  // tag: where it was noticed, for example "dataset" or "config"; shown as "[tag] message".
  UserError(std::string_view tag, std::string_view message)
      : std::runtime_error(fmt::format("[{}] {}", tag, message)) {}
};

class RuntimeError : public std::runtime_error {
 public:
  RuntimeError(std::string_view tag, std::string_view message)
      : std::runtime_error(fmt::format("[{}] {}", tag, message)) {}
};

class InternalError : public std::logic_error {
 public:
  InternalError(const char* file, int line, std::string_view message)
      : std::logic_error(fmt::format("internal error at {}:{}: {}", file, line, message)) {}
};

template <class... Args>
[[noreturn]] void user_error(std::string_view tag, fmt::format_string<Args...> format,
                             Args&&... args) {
  throw UserError(tag, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void runtime_error(std::string_view tag, fmt::format_string<Args...> format,
                                Args&&... args) {
  throw RuntimeError(tag, fmt::format(format, std::forward<Args>(args)...));
}

// What a kernel returns: null means success, else a static text (a contract violation: a bug).
struct Status {
  const char* error = nullptr;
  bool ok() const { return error == nullptr; }
};

}  // namespace hone

// A condition that no input can break.
#define HONE_CHECK(condition, ...)                                                 \
  do {                                                                             \
    if (!(condition)) [[unlikely]]                                                 \
      throw ::hone::InternalError(__FILE__, __LINE__, #condition " " __VA_ARGS__); \
  } while (false)
