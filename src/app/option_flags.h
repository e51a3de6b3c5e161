// The flags of a group of options, from its declarations (train/field.h).
#pragma once

#include <string>
#include <vector>

#include "app/cli.h"
#include "train/options.h"

namespace hone::app {

// Adds a flag a field; the value is set when the command line is parsed.
class OptionFlags {
 public:
  explicit OptionFlags(Command& c) : c_(c) {}

  // Numbers, texts, lists of texts. A switch that is on by default takes true or false.
  template <class T>
  void operator()(T& value, const train::Field& f) const {
    if (f.help == nullptr) return;
    if constexpr (std::is_enum_v<T>) {
      std::vector<std::string> words;
      for (const auto& [known, word] : train::kWords<T>) words.emplace_back(word);
      choice(f, std::move(words), std::string(train::word_of(value)),
             [&value](const std::string& w) {
               for (const auto& [known, word] : train::kWords<T>)
                 if (word == w) value = known;
             });
    } else if (f.value != nullptr) {
      c_.flag(names(f), value, f.help, f.value);
    } else {
      c_.flag(names(f), value, f.help);
    }
  }
  void operator()(bool& value, const train::Field& f) const;
  void operator()(std::optional<DType>& value, const train::Field& f) const;
  void operator()(std::optional<int64_t>& value, const train::Field& f) const;  // or auto
  void operator()(std::optional<double>& value, const train::Field& f) const;
  void operator()(std::vector<int64_t>& value, const train::Field& f) const;
  void operator()(std::vector<double>& value, const train::Field& f) const;
  void operator()(train::ByteCount& value, const train::Field& f) const;
  void operator()(train::NoDecay& value, const train::Field& f) const;

 private:
  static std::string names(const train::Field& f) {
    return f.names != nullptr ? f.names : "--" + std::string(f.key);
  }
  // The flag's name in messages.
  static std::string flag(const train::Field& f) { return "--" + std::string(f.key); }
  void choice(const train::Field& f, std::vector<std::string> words, std::string default_word,
              std::function<void(const std::string&)> set) const;

  Command& c_;
};

// The flags of a group under a heading.
template <class Group>
void add_flags(Command& c, const char* heading, Group& group) {
  c.group(heading);
  Group::fields(group, OptionFlags(c));
}

}  // namespace hone::app
