// Help pages.
#include <fmt/format.h>

#include <algorithm>

#include "app/cli.h"
#include "app/version.h"

namespace hone::app {
namespace {

constexpr int kColumn = 36;

// Words of text in lines of at most `width`, those after the first indented.
std::string wrapped(const std::string& text, int indent, int width, int at) {
  std::string out;
  size_t i = 0;
  bool first = true;
  while (i < text.size()) {
    const size_t end = std::min(text.find(' ', i), text.size());
    const std::string word = text.substr(i, end - i);
    i = end + 1;
    if (!first && at + 1 + static_cast<int>(word.size()) > width) {
      out += '\n' + std::string(static_cast<size_t>(indent), ' ');
      at = indent;
    } else if (!first) {
      out += ' ';
      ++at;
    }
    out += word;
    at += static_cast<int>(word.size());
    first = false;
  }
  return out;
}

std::string flag_line(const FlagInfo& f, int width) {
  std::string left = "  ";
  std::string others;
  std::string short_name;
  for (size_t i = 1; i < f.names.size(); ++i) {
    if (f.names[i].starts_with("--")) {
      others += (others.empty() ? "" : ", ") + f.names[i];
    } else {
      short_name = f.names[i];
    }
  }
  left += short_name.empty() ? "    " : short_name + ", ";
  left += f.names[0];
  if (!f.value_name.empty()) left += " " + f.value_name;
  std::string text = f.help;
  if (!others.empty()) text += fmt::format(" (also {})", others);
  if (!f.default_text.empty()) text += fmt::format(" [default: {}]", f.default_text);
  std::string line = left;
  if (static_cast<int>(left.size()) + 2 > kColumn) {
    line += '\n' + std::string(kColumn, ' ');
  } else {
    line += std::string(kColumn - left.size(), ' ');
  }
  return line + wrapped(text, kColumn, width, kColumn) + '\n';
}

}  // namespace

std::string Command::help(int width) const {
  std::string out = fmt::format("hone {}: {}\n", name_, summary_);
  if (!description_.empty()) {
    std::string text = description_;
    std::replace(text.begin(), text.end(), '\n', ' ');
    out += "\n" + wrapped(text, 0, width, 0) + "\n";
  }
  std::vector<std::string> groups;
  for (const auto& f : flags()) {
    if (std::find(groups.begin(), groups.end(), f.group) == groups.end()) groups.push_back(f.group);
  }
  for (const std::string& group : groups) {
    out += fmt::format("\n{}:\n", group);
    for (const FlagInfo& f : flags())
      if (f.group == group) out += flag_line(f, width);
  }
  if (find("--pretrained") != nullptr)
    out +=
        "\nNames that other trainers use (--model_name_or_path, --output_dir, ...) are taken where "
        "they "
        "mean\nthe same; others are told by ours.\n";
  return out;
}

std::string Cli::help() const {
  std::string out =
      "hone fine-tunes language models, on this machine and from a Hugging Face folder.\n"
      "\nUse: hone COMMAND --flags     hone COMMAND --help     hone --version\n"
      "\nCommands:\n";
  for (const auto& c : commands_) out += fmt::format("  {:<12}{}\n", c->name(), c->summary());
  out +=
      "\nFor example:\n"
      "  hone sft --pretrained MODEL --dataset data.jsonl --lora_rank 8 --lora_alpha 16 --lr 2e-5 "
      "--save_dir out\n"
      "  hone chat --pretrained MODEL --adapter out\n"
      "\nResults go to stdout, all else to stderr. Exit code: 0, 2 for a mistake in what was asked "
      "for,\n1 for anything else that failed.\n";
  return out;
}

}  // namespace hone::app
