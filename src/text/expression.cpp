#include "text/expression.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "text/ffi.h"

namespace hone {
namespace {

// Quoted, on one line, at most about 80 bytes.
std::string shown(const std::string& expression) {
  constexpr size_t kMost = 80;
  std::string text = expression.substr(0, kMost);
  if (expression.size() > kMost) text += "...";
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Expression::Expression(const std::string& expression, std::string_view tag, std::string_view what,
                       std::string_view hint) {
  HftExpression* handle = nullptr;
  text_ffi::Result error;
  if (hft_expression_new(text_ffi::slice(expression), &handle, error.out()) != 0) {
    std::string reason(error.view());
    for (char& c : reason)
      if (c == '\n') c = ' ';
    user_error(tag, "{}: {} is not a regular expression that is understood here ({}); {}", what,
               shown(expression), reason, hint);
  }
  handle_ = std::shared_ptr<const HftExpression>(
      handle, [](const HftExpression* h) { hft_expression_free(const_cast<HftExpression*>(h)); });
}

bool Expression::matches(std::string_view text) const {
  return hft_expression_matches(handle_.get(), text_ffi::slice(text)) != 0;
}

}  // namespace hone
