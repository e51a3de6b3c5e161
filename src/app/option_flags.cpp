#include "app/option_flags.h"

#include <charconv>

#include "app/units.h"
#include "core/error.h"

namespace hone::app {
namespace {

using Words = std::vector<std::string>;

template <class T>
T number(const std::string& flag, const std::string& text, const char* what) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [rest, code] = std::from_chars(text.data(), end, value);
  if (code != std::errc() || rest != end)
    user_error("flags", "{} {}: this is not {}", flag, text.empty() ? "\"\"" : text, what);
  return value;
}

}  // namespace

void OptionFlags::choice(const train::Field& f, Words words, std::string default_word,
                         std::function<void(const std::string&)> set) const {
  c_.choice(names(f), std::move(default_word), std::move(words), f.help, std::move(set));
}

void OptionFlags::operator()(bool& value, const train::Field& f) const {
  if (!value) {
    c_.flag(names(f), value, f.help);
    return;
  }
  choice(f, {"true", "false"}, "true", [&value](const std::string& w) { value = w == "true"; });
}

void OptionFlags::operator()(std::optional<DType>& value, const train::Field& f) const {
  c_.flag({.names = names(f),
           .help = f.help,
           .value_name = "auto|bf16|fp32",
           .default_text = "auto",
           .set = [&value, flag = flag(f)](const Words& w) { value = parse_dtype(flag, w[0]); }});
}

void OptionFlags::operator()(std::optional<int64_t>& value, const train::Field& f) const {
  c_.flag({.names = names(f),
           .help = f.help,
           .value_name = "N",
           .set = [&value, flag = flag(f)](const Words& w) {
             value = w[0] == "auto" || w[0] == "-1"
                         ? std::nullopt
                         : std::optional(number<int64_t>(flag, w[0],
                                                         "a number of steps; use 100, 0 or auto"));
           }});
}

void OptionFlags::operator()(std::optional<double>& value, const train::Field& f) const {
  c_.flag({.names = names(f),
           .help = f.help,
           .value_name = "X",
           .set = [&value, flag = flag(f)](const Words& w) {
             value = number<double>(flag, w[0], "a number");
           }});
}

void OptionFlags::operator()(std::vector<int64_t>& value, const train::Field& f) const {
  c_.flag({.names = names(f),
           .help = f.help,
           .value_name = "N...",
           .list = true,
           .set = [&value, flag = flag(f)](const Words& w) { value = number_list(flag, w); }});
}

void OptionFlags::operator()(std::vector<double>& value, const train::Field& f) const {
  c_.flag({.names = names(f),
           .help = f.help,
           .value_name = "X...",
           .list = true,
           .set = [&value, flag = flag(f)](const Words& w) {
             value.clear();
             for (const std::string& text : comma_list(w))
               value.push_back(number<double>(flag, text, "a number"));
           }});
}

void OptionFlags::operator()(train::ByteCount& value, const train::Field& f) const {
  c_.flag({.names = names(f),
           .help = f.help,
           .value_name = "6GiB",
           .set = [&value, flag = flag(f)](const Words& w) {
             value.bytes = parse_memory(flag, w[0]);
           }});
}

void OptionFlags::operator()(train::NoDecay& value, const train::Field& f) const {
  c_.flag({.names = names(f),
           .help = f.help,
           .value_name = "norm,bias",
           .list = true,
           .set = [&value, flag = flag(f)](const Words& w) {
             value = {};
             for (const std::string& word : comma_list(w)) {
               if (word != "norm" && word != "bias")
                 user_error("flags", "{} {} is not known; use norm, bias or norm,bias", flag, word);
               (word == "norm" ? value.norm : value.bias) = true;
             }
           }});
}

}  // namespace hone::app
