// Regular expressions with the meaning they have in Python's re, as far as they need no going back:
// matching takes time linear in the text, whatever the expression.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct HftExpression;

namespace hone {

class Expression {
 public:
  // UserError [tag] "what: EXPRESSION is ...": an expression that is malformed, too large, or needs
  // what isn't supported (look-around, back-references, ...), which is named. hint: what to do
  // instead.
  Expression(const std::string& expression, std::string_view tag, std::string_view what,
             std::string_view hint);
  // re.fullmatch
  bool matches(std::string_view text) const;

 private:
  std::shared_ptr<const HftExpression> handle_;
};

}  // namespace hone
