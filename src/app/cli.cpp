#include "app/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <new>

#include "app/config_file.h"
#include "app/foreign_flags.h"
#include "app/terminal.h"
#include "app/version.h"
#include "core/error.h"

namespace hone::app {

struct Command::Flag {
  FlagInfo info;
  bool is_switch = false;
  bool is_list = false;
  std::vector<std::string> given;                            // values, as written
  bool present = false;                                      // also without value
  std::function<void(const std::vector<std::string>&)> set;  // throws UserError

  std::string shown() const { return info.names[0]; }
};

namespace {

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  while (true) {
    const size_t end = text.find(at);
    if (end != 0) parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

// The name in front is the first long one.
std::vector<std::string> flag_names(const std::string& names) {
  std::vector<std::string> all = split(names, ',');
  const auto first = std::find_if(all.begin(), all.end(),
                                  [](const std::string& n) { return n.starts_with("--"); });
  HONE_CHECK(first != all.end(), "a flag needs a long name");
  std::rotate(all.begin(), first, first + 1);
  return all;
}

template <class T>
T parse_number(const std::string& flag, const std::string& text, const char* what) {
  T value{};
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (begin != end && *begin == '+') ++begin;
  const auto [rest, code] = std::from_chars(begin, end, value);
  if (code == std::errc::result_out_of_range)
    user_error("flags", "{} {}: the number is out of range", flag, text);
  if (code != std::errc() || rest != end || text.empty())
    user_error("flags", "{} {}: this is not {}", flag, text.empty() ? "\"\"" : text, what);
  return value;
}

double parse_real(const std::string& flag, const std::string& text) {
  const double value = parse_number<double>(flag, text, "a number");
  if (!std::isfinite(value)) user_error("flags", "{} {}: this is not a finite number", flag, text);
  return value;
}

bool parse_switch(const std::string& flag, const std::string& text) {
  for (const char* yes : {"true", "yes", "on", "1"})
    if (text == yes) return true;
  for (const char* no : {"false", "no", "off", "0"})
    if (text == no) return false;
  user_error("flags", "{} {}: use true or false", flag, text);
}

// Edits (insert, drop, change, swap neighbours) from a to b.
int distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = static_cast<int>(i);
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min(
          {d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

// As Python or YAML writes it, too.
bool is_true(const std::string& flag, std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return parse_switch(flag, text);
}

bool is_truth(const std::string& text) {
  return text == "true" || text == "True" || text == "false" || text == "False";
}

std::string bare(std::string_view name) {
  while (name.starts_with('-')) name.remove_prefix(1);
  std::string out(name);
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}

}  // namespace

std::string did_you_mean(std::string_view word, const std::vector<std::string>& known) {
  const std::string wanted = bare(word).substr(0, 100);
  std::string best;
  int best_distance = 1 + static_cast<int>(wanted.size()) / 3;
  for (const std::string& name : known) {
    const std::string candidate = bare(name);
    int d = distance(wanted, candidate);
    if (wanted.size() >= 3 &&
        (candidate.find(wanted) != std::string::npos || wanted.starts_with(candidate)) &&
        candidate.size() >= 3)
      d = std::min(d, 1);
    if (d < best_distance || (best.empty() && d <= best_distance)) {
      best = name;
      best_distance = d;
    }
  }
  return best.empty() ? "" : fmt::format("; did you mean {}?", best);
}

Command::Command(std::string name, std::string summary, std::string description)
    : name_(std::move(name)), summary_(std::move(summary)), description_(std::move(description)) {}
Command::~Command() = default;

Command::Flag& Command::add(const std::string& names, std::string help, std::string value_name) {
  auto flag = std::make_unique<Flag>();
  flag->info.names = flag_names(names);
  for (const std::string& name : flag->info.names)
    HONE_CHECK(find(name) == nullptr, "a flag's name is taken");
  flag->info.group = group_;
  flag->info.help = std::move(help);
  flag->info.value_name = std::move(value_name);
  flags_.push_back(std::move(flag));
  return *flags_.back();
}

void Command::flag(const std::string& names, std::string& value, std::string help,
                   std::string value_name) {
  Flag& f = add(names, std::move(help), std::move(value_name));
  f.info.default_text = value;
  f.set = [&value](const std::vector<std::string>& v) { value = v[0]; };
}

void Command::flag(const std::string& names, int64_t& value, std::string help,
                   std::string value_name) {
  Flag& f = add(names, std::move(help), std::move(value_name));
  f.info.default_text = std::to_string(value);
  f.set = [&value, name = f.shown()](const std::vector<std::string>& v) {
    value = parse_number<int64_t>(name, v[0], "a whole number");
  };
}

void Command::flag(const std::string& names, int& value, std::string help, std::string value_name) {
  Flag& f = add(names, std::move(help), std::move(value_name));
  f.info.default_text = std::to_string(value);
  f.set = [&value, name = f.shown()](const std::vector<std::string>& v) {
    value = parse_number<int>(name, v[0], "a whole number");
  };
}

void Command::flag(const std::string& names, uint64_t& value, std::string help,
                   std::string value_name) {
  Flag& f = add(names, std::move(help), std::move(value_name));
  f.info.default_text = std::to_string(value);
  f.set = [&value, name = f.shown()](const std::vector<std::string>& v) {
    value = parse_number<uint64_t>(name, v[0], "a whole number of 0 or more");
  };
}

void Command::flag(const std::string& names, double& value, std::string help,
                   std::string value_name) {
  Flag& f = add(names, std::move(help), std::move(value_name));
  f.info.default_text = fmt::format("{:g}", value);
  f.set = [&value, name = f.shown()](const std::vector<std::string>& v) {
    value = parse_real(name, v[0]);
  };
}

void Command::flag(const std::string& names, bool& value, std::string help) {
  Flag& f = add(names, std::move(help), "");
  f.is_switch = true;
  f.set = [&value, name = f.shown()](const std::vector<std::string>& v) {
    value = v.empty() || is_true(name, v[0]);
  };
}

void Command::flag(const std::string& names, std::vector<std::string>& value, std::string help,
                   std::string value_name) {
  Flag& f = add(names, std::move(help), std::move(value_name));
  f.is_list = true;
  f.info.default_text = fmt::format("{}", fmt::join(value, " "));
  f.set = [&value](const std::vector<std::string>& v) { value = v; };
}

void Command::flag(Value value) {
  Flag& f = add(value.names, std::move(value.help), std::move(value.value_name));
  f.is_list = value.list;
  f.info.default_text = std::move(value.default_text);
  f.set = std::move(value.set);
}

void Command::choice(const std::string& names, std::string& value, std::vector<std::string> words,
                     std::string help) {
  choice(names, std::string(value), std::move(words), std::move(help),
         [&value](const std::string& word) { value = word; });
}

void Command::choice(const std::string& names, std::string default_word,
                     std::vector<std::string> words, std::string help,
                     std::function<void(const std::string&)> set) {
  Flag& f = add(names, std::move(help), fmt::format("{}", fmt::join(words, "|")));
  f.info.default_text = std::move(default_word);
  f.set = [set = std::move(set), words, name = f.shown()](const std::vector<std::string>& v) {
    if (std::find(words.begin(), words.end(), v[0]) == words.end()) {
      const std::string hint = did_you_mean(v[0], words);
      user_error("flags", "{} {} is not known{} one of: {}", name, v[0].empty() ? "\"\"" : v[0],
                 hint.empty() ? "; use" : hint + " Use", fmt::join(words, ", "));
    }
    set(v[0]);
  };
}

void Command::config_files() {
  flag("--config", config_,
       "Read flags from a YAML or JSON file: keys are the flags' names; the command line wins",
       "FILE");
}

Command::Flag* Command::find(std::string_view name) const {
  for (const auto& f : flags_)
    for (const std::string& n : f->info.names)
      if (n == name) return f.get();
  return nullptr;
}

bool Command::given(std::string_view flag) const {
  const Flag* f = find(flag);
  HONE_CHECK(f != nullptr, "no such flag");
  return f->present;
}

std::vector<FlagInfo> Command::flags() const {
  std::vector<FlagInfo> out;
  for (const auto& f : flags_) out.push_back(f->info);
  return out;
}

std::string Command::nearest(std::string_view name) const {
  std::vector<std::string> known;
  for (const auto& f : flags_)
    known.insert(known.end(), f->info.names.begin(), f->info.names.end());
  return did_you_mean(name, known);
}

// The name by which this command has what a flag of another trainer means: the name itself where it
// is one of ours, or nobody's. UserError where there is no such flag.
std::string Command::own_name(const std::string& name, const std::string& where) const {
  const ForeignFlag* foreign = find(name) != nullptr ? nullptr : find_foreign_flag(bare(name));
  if (foreign == nullptr) return name;
  if (!foreign->ours.empty() && find(foreign->ours) != nullptr) return std::string(foreign->ours);
  if (!foreign->sentence.empty())
    user_error("flags", "{}{} is another trainer's: {}", where, name, foreign->sentence);
  user_error("flags", "{}{} is {} here, which hone {} has not got", where, name, foreign->ours,
             name_);
}

// Flags of other trainers by our names. There a switch may be followed by true or false, and so it
// may here.
std::vector<std::string> Command::own_args(const std::vector<std::string>& args) const {
  std::vector<std::string> out;
  for (size_t i = 0; i < args.size(); ++i) {
    const size_t equals = args[i].find('=');
    const std::string name = args[i].substr(0, equals);
    const std::string own = name.starts_with("--") ? own_name(name, "") : name;
    const Flag* flag = find(own);
    const bool is_switch = flag != nullptr && flag->is_switch;
    if (own == name && !(is_switch && equals == std::string::npos && i + 1 < args.size() &&
                         is_truth(args[i + 1]))) {
      out.push_back(args[i]);
      continue;
    }
    if (equals != std::string::npos) {
      out.push_back(own + args[i].substr(equals));
      if (is_switch) {
        out.pop_back();
        if (is_true(name, args[i].substr(equals + 1))) out.push_back(own);
      }
      continue;
    }
    const bool valued = is_switch && i + 1 < args.size() && !args[i + 1].starts_with('-');
    if (valued && !is_true(name, args[++i])) continue;
    out.push_back(own);
  }
  return out;
}

bool Command::parse(const std::vector<std::string>& written) {
  const std::vector<std::string> args = own_args(written);
  CLI::App app(summary_, name_);
  std::vector<std::pair<Flag*, CLI::Option*>> options;
  for (const auto& f : flags_) {
    const std::string names = fmt::format("{}", fmt::join(f->info.names, ","));
    CLI::Option* option = nullptr;
    if (f->is_switch) {
      option = app.add_flag(names);
    } else {
      option = app.add_option(names);
      if (f->is_list) {
        option->expected(1, -1)->allow_extra_args(true);
      } else {
        option->expected(1);
      }
    }
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    options.emplace_back(f.get(), option);
  }
  try {
    std::vector<std::string> reversed(args.rbegin(), args.rend());
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    return false;
  } catch (const CLI::ExtrasError&) {
    for (const std::string& left : app.remaining()) {
      if (left.starts_with('-')) {
        const std::string name = left.substr(0, left.find('='));
        user_error("flags", "hone {} has no flag {}{} (hone {} --help lists them)", name_, name,
                   nearest(name), name_);
      }
    }
    const std::vector<std::string> left = app.remaining();
    user_error("flags", "\"{}\" belongs to no flag; hone {} takes flags only",
               left.empty() ? "" : left[0], name_);
  } catch (const CLI::ArgumentMismatch&) {
    for (const auto& [f, option] : options) {
      if (!f->is_switch && option->count() == 0 &&
          std::any_of(f->info.names.begin(), f->info.names.end(), [&](const std::string& n) {
            return std::find(args.begin(), args.end(), n) != args.end();
          }))
        user_error("flags", "{} needs a value: {}", f->shown(), f->info.value_name);
    }
    user_error("flags", "a flag has no value; hone {} --help tells what each one takes", name_);
  } catch (const CLI::ParseError& e) {
    user_error("flags", "{}", e.what());
  }
  for (const auto& [f, option] : options) {
    if (option->count() == 0) continue;
    f->present = true;
    f->given = option->results();
    if (!f->is_list && f->given.size() > 1) {
      if (!f->is_switch)
        user_error("flags", "{} is given {} times; once is enough", f->shown(), f->given.size());
      f->given.resize(1);
    }
  }
  if (Flag* config = find("--config"); config != nullptr && config->present && !config->is_list &&
                                       config->info.group == kCommonGroup) {
    read_config(config->given[0]);
  }
  for (const auto& f : flags_) {
    if (f->present) f->set(f->given);
  }
  return true;
}

void Command::read_config(const std::string& path) {
  for (const ConfigEntry& entry : read_config_file(path)) {
    if (entry.key == "existing") continue;  // of a run's own file; said by --resume and --overwrite
    if (entry.key == "command" && entry.values.size() == 1) {
      // A run's configuration also serves its plan.
      if (entry.values[0] != name_ && !name_.ends_with(" " + entry.values[0]))
        user_error("config", "{}: this file is for hone {}, not for hone {}", path, entry.values[0],
                   name_);
      continue;
    }
    Flag* f = find(own_name("--" + bare(entry.key), path + ": "));
    if (f == nullptr || bare(entry.key) == "config")
      user_error("config", "{}: \"{}\" is not a flag of hone {}{}", path, entry.key, name_,
                 nearest(entry.key));
    if (!f->is_list && entry.values.size() != 1)
      user_error("config", "{}: \"{}\" takes one value, not a list of {}", path, entry.key,
                 entry.values.size());
    if (f->present || (f->is_list && entry.values.empty())) continue;
    if (!f->is_list && !f->is_switch && entry.values[0].empty()) continue;
    f->present = !f->is_switch || is_true(f->shown(), entry.values[0]);
    if (f->present) f->given = entry.values;
  }
}

Command& Cli::add(std::string name, std::string summary, std::string description) {
  commands_.push_back(
      std::make_unique<Command>(std::move(name), std::move(summary), std::move(description)));
  return *commands_.back();
}

int Cli::run(const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    if (args.size() > 1 && args[0] == "help") return run({args[1], "--help"});
    Output out;
    out.write(help());
    out.finish();
    return args.empty() ? 2 : 0;
  }
  if (args[0] == "--version" || args[0] == "version") {
    Output out;
    out.write(fmt::format("hone {}\n", kVersion));
    out.finish();
    return 0;
  }
  for (const auto& command : commands_) {
    // A name may be of two words ("plan sft").
    const bool two = args.size() > 1 && command->name() == args[0] + " " + args[1];
    if (!two && command->name() != args[0]) continue;
    if (!command->parse({args.begin() + (two ? 2 : 1), args.end()})) {
      Output out;
      out.write(command->help());
      out.finish();
      return 0;
    }
    return command->execute();
  }
  std::vector<std::string> known;
  for (const auto& command : commands_) known.push_back(command->name());
  user_error("flags", "hone has no command \"{}\"{} (hone --help lists them)", args[0],
             did_you_mean(args[0], known));
}

int run_guarded(Cli& cli, const std::vector<std::string>& args) {
  try {
    return cli.run(args);
  } catch (const ClosedOutput&) {
    return 0;
  } catch (const UserError& e) {
    say(fmt::format("error: {}", e.what()));
    return 2;
  } catch (const std::bad_alloc&) {
    say("error: [memory] the system gave no more memory; use smaller --micro_batch_tokens or "
        "--batch_size, or close other programs");
    return 1;
  } catch (const std::exception& e) {
    if (stdout_closed()) return 0;
    say(fmt::format("error: {}", e.what()));
    return 1;
  }
}

}  // namespace hone::app
