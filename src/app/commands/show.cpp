#include "app/commands/show.h"

#include <errno.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

#include "core/error.h"
#include "core/thread_pool.h"
#include "data/source.h"

namespace hone::app {

namespace {

constexpr int64_t kSamplesAtOnce = 1024;
constexpr std::string_view kTrainedColor = "\x1b[30;42m";
constexpr std::string_view kReset = "\x1b[0m";

// A JSON string of bytes that need not be UTF-8: other bytes as \xNN.
std::string escaped_text(std::string_view bytes) {
  if (data::find_invalid_utf8(bytes) == std::string_view::npos) return Json(bytes).dump();
  std::string out = "\"";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || byte < 0x20 || c == '"' || c == '\\') {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

// The sample in one piece, then a line a token: number, mark, id, text.
std::string describe(const data::Dataset& dataset, const data::Sample& sample, bool color) {
  const Tokenizer& tokenizer = dataset.text_model().tokenizer;
  std::string out = fmt::format("sample {} ({}): {} tokens, {} trained{}\n", sample.index + 1,
                                dataset.location(sample.index), sample.size(), sample.trained_count,
                                sample.cut ? fmt::format(", cut at {}", sample.size()) : "");
  if (!sample.lengths.empty())
    out += fmt::format("{} answers, each trained as a sequence of its own\n", sample.sequences());
  const std::string_view on = color ? kTrainedColor : "[[", off = color ? kReset : "]]";
  bool inside = false;
  std::vector<size_t> begins;  // of the second sequence and those after it
  for (size_t i = 0, at = 0; i + 1 < sample.lengths.size(); ++i)
    begins.push_back(at += static_cast<size_t>(sample.lengths[i]));
  const auto begins_at = [&](size_t t) {
    return std::find(begins.begin(), begins.end(), t) != begins.end();
  };
  for (size_t t = 0; t < sample.tokens.size(); ++t) {
    if (begins_at(t)) {
      if (inside) out += off;
      inside = false;
      out += "\n\n";
    }
    if ((sample.trained[t] != 0) != inside) {
      inside = !inside;
      out += inside ? on : off;
    }
    out += tokenizer.token_bytes(sample.tokens[t]);
  }
  if (inside) out += off;
  out += "\n\n";
  for (size_t t = 0; t < sample.tokens.size(); ++t) {
    const bool trained = sample.trained[t] != 0;
    std::string text = escaped_text(tokenizer.token_bytes(sample.tokens[t]));
    if (begins_at(t)) out += '\n';
    if (color && trained) text = fmt::format("{}{}{}", kTrainedColor, text, kReset);
    out += fmt::format("{:6} {} {:7}  {}\n", t, trained ? '*' : ' ', sample.tokens[t], text);
  }
  return out + '\n';
}

// {"text": ..., "tokens": [...], "trained": [...]}
std::string json_line(const std::string& text, const data::Sample& sample) {
  std::string out = "{\"text\":" + Json(text).dump() + ",\"tokens\":[";
  for (size_t t = 0; t < sample.tokens.size(); ++t) {
    if (t > 0) out += ',';
    out += fmt::format_int(sample.tokens[t]).c_str();
  }
  out += "],\"trained\":[";
  for (size_t t = 0; t < sample.trained.size(); ++t) {
    if (t > 0) out += ',';
    out += sample.trained[t] ? '1' : '0';
  }
  out += ']';
  for (size_t i = 0; i < sample.lengths.size(); ++i)
    out += fmt::format("{}{}", i == 0 ? ",\"sequences\":[" : ",", sample.lengths[i]);
  return out + (sample.lengths.empty() ? "}\n" : "]}\n");
}

void write(std::FILE* out, std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), out) != text.size())
    runtime_error("show", "writing the output failed: {}", std::strerror(errno));
}

}  // namespace

int run_show(const ShowOptions& options, std::FILE* out) {
  data::DatasetOptions data_options = options.data;
  data_options.check_bytes = 0;  // what is shown is checked by showing it
  const auto dataset =
      data::Dataset::open(data::TextModel::load(options.pretrained, options.text), data_options);
  int64_t count = options.num_samples;
  if (count < 0) count = options.json ? 0 : 3;
  if (count == 0) count = dataset->size();
  count = std::min(count, dataset->size());
  const bool color = options.color == ShowOptions::Color::kAlways ||
                     (options.color == ShowOptions::Color::kAuto && ::isatty(::fileno(out)) == 1);

  const int threads = data_options.threads > 0 ? data_options.threads : available_threads();
  ThreadPool pool(static_cast<int>(std::clamp<int64_t>(count, 1, threads)));
  for (int64_t begin = 0; begin < count; begin += kSamplesAtOnce) {
    const int64_t n = std::min(kSamplesAtOnce, count - begin);
    std::vector<std::string> lines(static_cast<size_t>(n));
    std::vector<std::exception_ptr> faults(static_cast<size_t>(n));
    pool.run(n, [&](int64_t i, int) {
      const auto at = static_cast<size_t>(i);
      try {
        std::string text;
        const data::Sample sample = dataset->get(begin + i, options.json ? &text : nullptr);
        lines[at] = options.json ? json_line(text, sample) : describe(*dataset, sample, color);
      } catch (...) {
        faults[at] = std::current_exception();
      }
    });
    for (size_t i = 0; i < lines.size(); ++i) {
      if (faults[i]) {
        std::fflush(out);  // what came before the fault
        std::rethrow_exception(faults[i]);
      }
      write(out, lines[i]);
    }
  }
  if (std::fflush(out) != 0)
    runtime_error("show", "writing the output failed: {}", std::strerror(errno));
  if (!options.json) {
    for (const std::string& line : dataset->describe()) fmt::print(stderr, "{}\n", line);
    fmt::print(stderr, "shown {} of {} samples; {} marks what is trained\n", count, dataset->size(),
               color ? "the colour" : "[[ ]] and *");
  }
  return 0;
}

}  // namespace hone::app
