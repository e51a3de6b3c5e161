// JSON a line in, JSON a line out.
#pragma once

#include <cstdint>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "text/chat_template.h"

namespace hone::app {

// Lines of a file, or of stdin ("-"). Blank lines are passed over.
class JsonLines {
 public:
  explicit JsonLines(const std::string& path);  // UserError
  // False at the end. UserError with file and line: not JSON, no UTF-8, over 16 MB.
  bool next(Json& value);
  std::string where() const;  // "file:line" of the last value
  int64_t line() const { return line_; }

 private:
  std::string path_;
  std::ifstream file_;
  std::string text_;
  int64_t line_ = 0;
};

// The shortest decimal that reads back as the same float; null where it isn't finite.
std::string float_text(float value);
std::string float_list(std::span<const float> values);
template <class T>
std::string int_list(std::span<const T> values) {
  std::string out = "[";
  for (const T v : values) {
    if (out.size() > 1) out += ',';
    out += std::to_string(v);
  }
  return out + ']';
}

// A list of token ids below vocab; UserError at `where` for anything else.
std::vector<int32_t> token_list(const Json& json, int64_t vocab, const std::string& where);

}  // namespace hone::app
