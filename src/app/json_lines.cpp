#include "app/json_lines.h"

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <iostream>

#include "core/error.h"
#include "data/foreign_file.h"
#include "data/record_json.h"

namespace hone::app {
namespace {

constexpr size_t kMaxLineBytes = size_t{16} << 20;

}  // namespace

JsonLines::JsonLines(const std::string& path) : path_(path) {
  if (path_.empty()) user_error("flags", "no input was given; use --input FILE, or - for stdin");
  if (path_ == "-") return;
  file_.open(path_, std::ios::binary);
  if (!file_) user_error("input", "{}: cannot be opened: {}", path_, std::strerror(errno));
}

std::string JsonLines::where() const {
  return fmt::format("{}:{}", path_ == "-" ? "stdin" : path_, line_);
}

bool JsonLines::next(Json& value) {
  std::streambuf& buffer = path_ == "-" ? *std::cin.rdbuf() : *file_.rdbuf();
  constexpr int kEnd = std::char_traits<char>::eof();
  while (true) {
    text_.clear();
    int c = buffer.sbumpc();
    if (c == kEnd) return false;
    ++line_;
    for (; c != kEnd && c != '\n'; c = buffer.sbumpc()) {
      text_ += static_cast<char>(c);
      if (text_.size() > kMaxLineBytes)
        user_error("input", "{}: the line is over {} bytes long; is this a JSON-lines file?",
                   where(), kMaxLineBytes);
    }
    if (line_ == 1 && text_.starts_with("\xEF\xBB\xBF")) text_.erase(0, 3);
    if (line_ == 1 && path_ != "-") {
      if (const std::string foreign = data::foreign_file(path_, text_); !foreign.empty())
        user_error("input", "{} {}", path_, foreign);
    }
    if (text_.find_first_not_of(" \t\r") != std::string::npos) break;
  }
  try {
    value = data::parse_json_record(text_);
  } catch (const data::RecordError& e) {
    user_error("input", "{}: {}", where(), e.what());
  }
  return true;
}

std::string float_text(float value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  return {text, end};
}

std::string float_list(std::span<const float> values) {
  std::string out = "[";
  for (const float v : values) {
    if (out.size() > 1) out += ',';
    out += float_text(v);
  }
  return out + ']';
}

std::vector<int32_t> token_list(const Json& json, int64_t vocab, const std::string& where) {
  if (!json.is_array())
    user_error("input", "{}: found {}; expected a list of token ids", where, json.type_name());
  if (json.empty()) user_error("input", "{}: the list of token ids is empty", where);
  std::vector<int32_t> ids;
  ids.reserve(json.size());
  for (const Json& id : json) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
      user_error("input", "{}: element {} is {}; expected a token id", where, ids.size(),
                 id.dump().substr(0, 80));
    const auto value = id.get<int32_t>();
    if (value >= vocab)
      user_error("input", "{}: token id {} is outside the model's {} embeddings", where, value,
                 vocab);
    ids.push_back(value);
  }
  return ids;
}

}  // namespace hone::app
