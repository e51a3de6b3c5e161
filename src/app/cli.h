// The command line: commands, their flags, configuration files, help pages and exit codes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hone::app {

// What a flag is, for the help page and the list of flags.
struct FlagInfo {
  std::vector<std::string> names;  // "--num_epochs", then short and other names
  std::string group;
  std::string value_name;    // "" for a switch
  std::string default_text;  // "" = none
  std::string help;
};

// One command and its flags. Values given in a --config file come after those of the command line.
class Command {
 public:
  Command(std::string name, std::string summary, std::string description);
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  // Heading of the flags that follow.
  void group(std::string heading) { group_ = std::move(heading); }
  // names: "-n,--num_epochs,--max_epochs"; the first long one is the flag's name, the others mean
  // the same. The value before parsing is the default. A bool is a switch without value.
  void flag(const std::string& names, std::string& value, std::string help,
            std::string value_name = "TEXT");
  void flag(const std::string& names, int64_t& value, std::string help,
            std::string value_name = "N");
  void flag(const std::string& names, int& value, std::string help, std::string value_name = "N");
  void flag(const std::string& names, uint64_t& value, std::string help,
            std::string value_name = "N");
  void flag(const std::string& names, double& value, std::string help,
            std::string value_name = "X");
  void flag(const std::string& names, bool& value, std::string help);
  // A list: several values, or the flag several times, replace the default.
  void flag(const std::string& names, std::vector<std::string>& value, std::string help,
            std::string value_name = "FILE");
  // One of a few words.
  void choice(const std::string& names, std::string& value, std::vector<std::string> words,
              std::string help);
  void choice(const std::string& names, std::string default_word, std::vector<std::string> words,
              std::string help, std::function<void(const std::string&)> set);
  // Any other kind of value: set gets the words that were given (one, or those of a list) and
  // throws UserError.
  struct Value {
    std::string names, help, value_name, default_text;
    bool list = false;
    std::function<void(const std::vector<std::string>&)> set;
  };
  void flag(Value value);
  // Adds --config: a YAML or JSON file of flags.
  void config_files();
  // What the command does with the flags' values; returns the exit code.
  void run(std::function<int()> action) { action_ = std::move(action); }

  // On the command line or in the configuration file.
  bool given(std::string_view flag) const;

  const std::string& name() const { return name_; }
  const std::string& summary() const { return summary_; }
  std::vector<FlagInfo> flags() const;
  std::string help(int width = 100) const;

  // args without the command's name. Sets the values; UserError. False: --help was asked for.
  bool parse(const std::vector<std::string>& args);
  int execute() const { return action_(); }

 private:
  struct Flag;
  Flag& add(const std::string& names, std::string help, std::string value_name);
  Flag* find(std::string_view name) const;
  std::string nearest(std::string_view name) const;
  std::string own_name(const std::string& name, const std::string& where) const;
  std::vector<std::string> own_args(const std::vector<std::string>& args) const;
  void read_config(const std::string& path);

  std::string name_, summary_, description_, group_;
  std::vector<std::unique_ptr<Flag>> flags_;
  std::function<int()> action_;
  std::string config_;
};

class Cli {
 public:
  Command& add(std::string name, std::string summary, std::string description = "");
  const std::vector<std::unique_ptr<Command>>& commands() const { return commands_; }
  std::string help() const;
  // Parses and runs; exceptions come out. Returns the exit code.
  int run(const std::vector<std::string>& args);

 private:
  std::vector<std::unique_ptr<Command>> commands_;
};

// Runs and turns every exception into one line on stderr and an exit code: 0, 2 for the user's
// mistakes, 1 for all else.
int run_guarded(Cli& cli, const std::vector<std::string>& args);

// ", did you mean X?" for the word nearest to a misspelt one, or "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& known);

}  // namespace hone::app
