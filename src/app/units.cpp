#include "app/units.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace hone::app {

size_t parse_memory(std::string_view flag, const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, code] = std::from_chars(text.data(), end, value);
  std::string unit;
  for (const char* p = rest; p != end; ++p)
    if (*p != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*p)));
  double factor = -1;
  if (unit.empty() || unit == "b") factor = 1;
  const std::string prefixes = "kmgt";
  const size_t at = unit.empty() ? std::string::npos : prefixes.find(unit[0]);
  if (at != std::string::npos) {
    const std::string tail = unit.substr(1);
    if (tail.empty() || tail == "ib" || tail == "i")
      factor = std::pow(1024.0, static_cast<double>(at + 1));
    if (tail == "b") factor = std::pow(1000.0, static_cast<double>(at + 1));
  }
  if (code != std::errc() || factor < 0 || !(value >= 0) || !(value * factor < 1e18))
    user_error("flags",
               "{} {}: this is not an amount of memory; write 6GiB, 800MB or a number of bytes",
               flag, text.empty() ? "\"\"" : text);
  return static_cast<size_t>(value * factor);
}

std::optional<DType> parse_dtype(std::string_view flag, const std::string& text) {
  if (text.empty() || text == "auto") return std::nullopt;
  if (text == "bf16" || text == "bfloat16") return DType::bf16;
  if (text == "fp32" || text == "float32") return DType::f32;
  if (text == "fp16" || text == "float16")
    user_error("flags",
               "{} {}: hone computes in bf16 or fp32, which need no loss scaling; use bf16", flag,
               text);
  user_error("flags", "{} {} is not known; use auto, bf16 or fp32", flag, text);
}

std::vector<std::string> comma_list(const std::vector<std::string>& values) {
  std::vector<std::string> out;
  for (const std::string& value : values) {
    for (size_t i = 0; i <= value.size();) {
      const size_t end = std::min(value.find(',', i), value.size());
      std::string item = value.substr(i, end - i);
      const auto blank = [](char c) { return c == ' '; };
      item.erase(item.begin(), std::find_if_not(item.begin(), item.end(), blank));
      while (!item.empty() && item.back() == ' ') item.pop_back();
      if (!item.empty()) out.push_back(std::move(item));
      i = end + 1;
    }
  }
  return out;
}

std::vector<int64_t> number_list(std::string_view flag, const std::vector<std::string>& values) {
  std::vector<int64_t> out;
  for (const std::string& item : comma_list(values)) {
    int64_t first = 0, last = 0;
    const char* end = item.data() + item.size();
    auto [p, code] = std::from_chars(item.data(), end, first);
    last = first;
    if (code == std::errc() && p != end && *p == '-') {
      const auto second = std::from_chars(p + 1, end, last);
      p = second.ptr;
      code = second.ec;
    }
    if (code != std::errc() || p != end || first < 0 || last < first || last > 100000)
      user_error("flags", "{} {}: use numbers and ranges such as 0,1,5-7", flag, item);
    for (int64_t i = first; i <= last; ++i) out.push_back(i);
  }
  return out;
}

}  // namespace hone::app
