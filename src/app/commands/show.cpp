#include "app/commands/show.h"

#include <errno.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "data/source.h"

namespace hone::app {

namespace {

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
  const std::string_view on = color ? kTrainedColor : "[[", off = color ? kReset : "]]";
  bool inside = false;
  for (size_t t = 0; t < sample.tokens.size(); ++t) {
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
    if (color && trained) text = fmt::format("{}{}{}", kTrainedColor, text, kReset);
    out += fmt::format("{:6} {} {:7}  {}\n", t, trained ? '*' : ' ', sample.tokens[t], text);
  }
  return out + '\n';
}

void write(std::FILE* out, std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), out) != text.size())
    runtime_error("show", "writing the output failed: {}", std::strerror(errno));
}

}  // namespace

int run_show(const ShowOptions& options, std::FILE* out) {
  data::DatasetOptions data_options = options.data;
  data_options.check_bytes = 0;  // what is shown is checked by showing it
  const auto dataset = data::Dataset::open(
      data::TextModel::load(options.pretrained, options.conversation_template), data_options);
  int64_t count = options.num_samples;
  if (count < 0) count = options.json ? 0 : 3;
  if (count == 0) count = dataset->size();
  count = std::min(count, dataset->size());
  const bool color = options.color == ShowOptions::Color::kAlways ||
                     (options.color == ShowOptions::Color::kAuto && ::isatty(::fileno(out)) == 1);

  for (int64_t i = 0; i < count; ++i) {
    std::string text;
    const data::Sample sample = dataset->get(i, options.json ? &text : nullptr);
    if (options.json) {
      Json line = Json::object();
      line["text"] = std::move(text);
      line["tokens"] = sample.tokens;
      line["trained"] = sample.trained;
      write(out, line.dump() + '\n');
    } else {
      write(out, describe(*dataset, sample, color));
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
