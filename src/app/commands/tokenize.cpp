#include "app/commands/tokenize.h"

#include <errno.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iostream>
#include <vector>

#include "core/error.h"
#include "core/thread_pool.h"
#include "data/foreign_file.h"
#include "data/record_json.h"
#include "text/tokenizer.h"

namespace hone::app {

namespace {

constexpr size_t kMaxLineBytes = size_t{16} << 20;
constexpr size_t kLinesAtOnce = 1024;
constexpr size_t kBytesAtOnce = size_t{32} << 20;

// Like std::getline, but stops at kMaxLineBytes. False at the end.
bool read_line(std::istream& in, std::string& line) {
  line.clear();
  std::streambuf& buffer = *in.rdbuf();
  for (int c = buffer.sbumpc();; c = buffer.sbumpc()) {
    if (c == std::char_traits<char>::eof()) {
      in.setstate(std::ios::eofbit);
      return !line.empty();
    }
    if (c == '\n') return true;
    line += static_cast<char>(c);
    if (line.size() > kMaxLineBytes) return true;
  }
}

std::string convert(const Tokenizer& tokenizer, const TokenizeOptions& options,
                    const std::string& line) {
  if (line.size() > kMaxLineBytes)
    throw data::RecordError(fmt::format("the line is over {} bytes long", kMaxLineBytes));
  const Json json = data::parse_json_record(line);
  if (!options.decode) {
    if (!json.is_string())
      throw data::RecordError(
          fmt::format("found {}; expected a JSON string",
                      json.is_array() ? "a list (is --decode missing?)" : json.type_name()));
    const std::vector<int32_t> ids =
        tokenizer.encode(json.get_ref<const std::string&>(), options.add_special_tokens);
    return Json(ids).dump();
  }
  if (!json.is_array())
    throw data::RecordError(
        fmt::format("found {}; expected a JSON list of token ids", json.type_name()));
  std::vector<int32_t> ids;
  ids.reserve(json.size());
  for (const Json& id : json) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
      throw data::RecordError(
          fmt::format("element {} is {}; expected a token id", ids.size(), id.dump()));
    ids.push_back(id.get<int32_t>());
  }
  return Json(tokenizer.decode(ids)).dump();
}

// The first line without a byte order mark. UserError if it tells that this isn't JSON.
void begin_of_input(const std::string& path, std::string& line) {
  if (line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
  const std::string foreign = path == "-" ? "" : data::foreign_file(path, line);
  if (!foreign.empty()) user_error("tokenize", "{} {}", path, foreign);
}

}  // namespace

int run_tokenize(const TokenizeOptions& options, std::FILE* out) {
  const Tokenizer tokenizer = Tokenizer::load(options.pretrained);
  std::ifstream file;
  if (options.input != "-") {
    file.open(options.input, std::ios::binary);
    if (!file)
      user_error("tokenize", "{}: cannot be opened: {}", options.input, std::strerror(errno));
  }
  std::istream& in = options.input == "-" ? std::cin : file;
  ThreadPool pool(options.threads > 0 ? options.threads : available_threads());

  int64_t lines_done = 0;
  std::vector<std::string> lines, results;
  std::string line;
  for (bool more = true; more;) {
    lines.clear();
    size_t bytes = 0;
    while (lines.size() < kLinesAtOnce && bytes < kBytesAtOnce) {
      more = read_line(in, line);
      if (!more) break;
      if (lines_done == 0 && lines.empty()) begin_of_input(options.input, line);
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
      bytes += line.size();
      const bool too_long = line.size() > kMaxLineBytes;
      lines.push_back(std::move(line));
      if (too_long) {
        more = false;
        break;
      }
    }
    results.assign(lines.size(), {});
    std::vector<std::string> faults(lines.size());
    pool.run(static_cast<int64_t>(lines.size()), [&](int64_t i, int) {
      const auto at = static_cast<size_t>(i);
      if (lines[at].empty()) return;  // a blank line
      try {
        results[at] = convert(tokenizer, options, lines[at]) + '\n';
      } catch (const data::RecordError& e) {
        faults[at] = e.what();
      } catch (const UserError& e) {
        faults[at] = e.what();
      }
    });
    for (size_t i = 0; i < lines.size(); ++i) {
      if (!faults[i].empty())
        user_error("tokenize", "{}:{}: {}", options.input, lines_done + static_cast<int64_t>(i) + 1,
                   faults[i]);
      if (std::fwrite(results[i].data(), 1, results[i].size(), out) != results[i].size())
        runtime_error("tokenize", "writing the output failed: {}", std::strerror(errno));
    }
    lines_done += static_cast<int64_t>(lines.size());
  }
  if (in.bad()) runtime_error("tokenize", "{}: reading failed", options.input);
  if (std::fflush(out) != 0)
    runtime_error("tokenize", "writing the output failed: {}", std::strerror(errno));
  return 0;
}

}  // namespace hone::app
