#include "data/dataset.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/dataset_impl.h"
#include "data/pairs.h"

namespace hone::data {
namespace {

constexpr std::pair<DatasetFormat, std::string_view> kFormatNames[] = {
    {DatasetFormat::kAuto, "auto"},
    {DatasetFormat::kMessages, "messages"},
    {DatasetFormat::kShareGpt, "sharegpt"},
    {DatasetFormat::kAlpaca, "alpaca"},
    {DatasetFormat::kPromptCompletion, "prompt_completion"},
    {DatasetFormat::kQuestionAnswer, "qa"},
    {DatasetFormat::kText, "text"},
    {DatasetFormat::kTokens, "tokens"},
    {DatasetFormat::kPairs, "pairs"},
    {DatasetFormat::kLabelled, "labelled"},
};

std::string_view group_name(Group group) {
  return group == Group::kChats ? "conversations" : "plain texts";
}

}  // namespace

DatasetFormat parse_dataset_format(std::string_view name) {
  std::string names;
  for (const auto& [format, known] : kFormatNames) {
    if (name == known) return format;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  user_error("dataset", "dataset_format is \"{}\"; expected one of {}", name, names);
}

std::string_view dataset_format_name(DatasetFormat format) {
  for (const auto& [known, name] : kFormatNames)
    if (known == format) return name;
  return "?";
}

Record Dataset::Impl::record(size_t source, const std::string& bytes) const {
  if (sources[source]->container() == Container::kText) {
    if (options.format == DatasetFormat::kPairs || options.format == DatasetFormat::kLabelled)
      throw RecordError("a text file holds no answers to compare; use JSON lines");
    if (const size_t bad = find_invalid_utf8(bytes); bad != std::string_view::npos)
      throw RecordError(fmt::format(
          "invalid UTF-8: byte 0x{:02X}, {} bytes after this line's begin; convert the file to "
          "UTF-8",
          static_cast<unsigned char>(bytes[bad]), bad));
    Record record;
    record.text = bytes;
    record.whole = false;
    return record;
  }
  return interpret_record(parse_json_record(bytes), rules[source]);
}

void Dataset::Impl::check_group(size_t source, Record::Kind kind) const {
  const Group group = group_of(kind);
  if (group == Group::kAny || groups[source] == Group::kAny || group == groups[source]) return;
  throw RecordError(
      fmt::format("found a record of {} in a file that began with {}; split the file, or name "
                  "its format with "
                  "--dataset_format",
                  group_name(group), group_name(groups[source])));
}

TokenizedText Dataset::Impl::tokenize(Record record) const {
  switch (record.kind) {
    case Record::Kind::kChat: {
      if (!encoder)
        throw RecordError("found a conversation, but " + text.no_template() +
                          ", or use plain text or {\"prompt\", \"completion\"} records");
      const Json& messages =
          record.conversation.is_array() ? record.conversation : record.conversation["messages"];
      const bool prompt = options.add_generation_prompt && messages.back()["role"] != "assistant";
      TokenizedText text = encoder->encode(record.conversation, prompt);
      apply_turns(record.turn_trained, options.train_on, text);
      if (!text.lengths.empty()) drop_untrained_sequences(text);
      return text;
    }
    case Record::Kind::kPromptCompletion: {
      TokenizedText out;
      const auto begin = static_cast<int64_t>(record.prompt.size());
      out.text = record.prompt + record.completion;
      if (const std::string eos = text.eos();
          options.append_eos && !record.completion.ends_with(eos) && !options.add_generation_prompt)
        out.text += eos;
      Encoding encoding = text.tokenizer.encode_with_ranges(out.text, true);
      out.trained.resize(encoding.ids.size());
      for (size_t t = 1; t < out.trained.size(); ++t) {
        const ByteRange range = encoding.ranges[t];
        out.trained[t] =
            options.train_on == TrainOn::kAll || (range.begin >= begin && range.end > range.begin);
      }
      out.tokens = std::move(encoding.ids);
      return out;
    }
    case Record::Kind::kText:
      return encode_plain_text(text.tokenizer, std::move(record.text),
                               record.whole && options.append_eos ? text.eos() : "");
    case Record::Kind::kPair:
      return join_pair(tokenize(std::move(record.sides[0])), tokenize(std::move(record.sides[1])));
    case Record::Kind::kTokens:
      break;
  }
  TokenizedText out;
  out.tokens = std::move(record.tokens);
  out.trained = std::move(record.trained);
  if (record.lengths.size() > 1) out.lengths = std::move(record.lengths);
  return out;
}

Dataset::Dataset(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Dataset::~Dataset() = default;

int64_t Dataset::size() const { return impl_->firsts.back(); }

Sample Dataset::get(int64_t i, std::string* text) const {
  const auto [source, at] = impl_->locate(i);
  std::string bytes;
  impl_->sources[source]->read(at, bytes);
  try {
    Record record = impl_->record(source, bytes);
    impl_->check_group(source, record.kind);
    const bool is_tokens = record.kind == Record::Kind::kTokens;
    const bool desirable = record.desirable;
    TokenizedText made = impl_->tokenize(std::move(record));
    const int64_t limit = options().vocab_limit;
    const int32_t max_id = impl_->text.tokenizer.max_id();
    Sample sample;
    sample.index = i;
    sample.key = static_cast<uint64_t>(i);
    sample.desirable = desirable;
    if (options().max_length > 0)
      sample.cut = cut_sequences(made, static_cast<size_t>(options().max_length));
    if (options().format == DatasetFormat::kPairs) drop_useless_pair(made);
    if (limit > 0 && (is_tokens || max_id >= limit)) {
      for (size_t t = 0; t < made.tokens.size(); ++t)
        if (made.tokens[t] >= limit)
          throw RecordError(fmt::format(
              "token {} has the id {}, but the model's embedding has {} rows (ids 0 to {}){}", t,
              made.tokens[t], limit, limit - 1,
              is_tokens ? "" : "; the tokenizer doesn't belong to this model"));
    }
    if (text) *text = is_tokens ? impl_->text.tokenizer.decode(made.tokens) : std::move(made.text);
    sample.tokens = std::move(made.tokens);
    sample.trained = std::move(made.trained);
    sample.lengths = std::move(made.lengths);
    sample.tokens.shrink_to_fit();
    sample.trained.shrink_to_fit();
    sample.trained_count = std::count(sample.trained.begin(), sample.trained.end(), uint8_t{1});
    return sample;
  } catch (const RecordError& e) {
    user_error("dataset", "{}: {}", impl_->location(source, at), e.what());
  } catch (const UserError& e) {
    user_error("dataset", "{}: {}", impl_->location(source, at), e.what());
  }
}

std::string Dataset::record(int64_t i) const {
  const auto [source, at] = impl_->locate(i);
  std::string bytes;
  impl_->sources[source]->read(at, bytes);
  return bytes;
}

std::string Dataset::location(int64_t i) const {
  const auto [source, at] = impl_->locate(i);
  return impl_->location(source, at);
}

void Dataset::require_trainable() const {
  bool cut = false;
  for (int64_t i = 0; i < size(); ++i) {
    const Sample sample = get(i);
    if (sample.trained_count > 0) return;
    cut = cut || sample.cut;
  }
  user_error("dataset",
             "none of the {} samples ({}, ...) has a token to train{}; look at them with hone show",
             size(), location(0),
             cut ? fmt::format(" within max_length {}: raise it", options().max_length) : "");
}

void Dataset::note(const Sample& sample) const {
  const std::lock_guard lock(impl_->mutex);
  const bool pair = options().format == DatasetFormat::kPairs;
  const bool equal = pair && !sample.cut && equal_sides(sample.tokens, sample.lengths);
  if (equal) impl_->equal.add(sample.index);
  if (sample.trained_count == 0 && !equal) impl_->untrainable.add(sample.index);
  if (sample.cut) impl_->cut.add(sample.index);
  if (!sample.lengths.empty() && !pair) impl_->by_answer.add(sample.index);
}

void Dataset::warn_noted() const {
  std::vector<std::string> lines;
  {
    const std::lock_guard lock(impl_->mutex);
    const auto line = [&](Noted& noted, std::string_view what) {
      if (!noted.fresh) return;
      noted.fresh = false;
      lines.push_back(fmt::format("{} of {} samples {} (the first: {})", noted.count, size(), what,
                                  location(noted.first)));
    };
    line(impl_->untrainable,
         fmt::format("have nothing to train within max_length {} and are left out",
                     options().max_length));
    line(impl_->equal, "are pairs of equal sides and are left out");
    line(impl_->cut, fmt::format("were cut at max_length {}", options().max_length));
    line(impl_->by_answer,
         "are trained answer by answer, each as a sequence of its own, since the chat template "
         "writes earlier turns differently once a conversation goes on");
  }
  for (const std::string& text : lines) warn(text);
}

int64_t Dataset::untrainable_seen() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->untrainable.count;
}

const std::vector<int32_t>& Dataset::turn_ends() const { return impl_->turn_ends; }
const TextModel& Dataset::text_model() const { return impl_->text; }
const DatasetOptions& Dataset::options() const { return impl_->options; }
uint64_t Dataset::fingerprint() const { return impl_->fingerprint; }

int64_t Dataset::memory_bytes() const {
  int64_t bytes = static_cast<int64_t>(4 * impl_->untrainable.seen.size() * 8);
  for (const auto& source : impl_->sources) bytes += source->memory_bytes();
  return bytes;
}

int64_t Dataset::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& source : impl_->sources) bytes += source->bytes();
  return bytes;
}

std::vector<std::string> Dataset::describe() const {
  std::vector<std::string> lines;
  for (size_t s = 0; s < impl_->sources.size(); ++s)
    lines.push_back(fmt::format("{}: {} records, {}", impl_->sources[s]->path(),
                                impl_->sources[s]->size(),
                                impl_->sources[s]->container() == Container::kText
                                    ? "running text"
                                    : dataset_format_name(impl_->first_formats[s])));
  if (const std::string unused = impl_->fields.unused_fields(); !unused.empty())
    lines.push_back(fmt::format("fields that are not used: {}{}", unused,
                                impl_->checked ? "" : " among the first 1024"));
  return lines;
}

void Dataset::warn(const std::string& line) const {
  if (options().warn) {
    options().warn(line);
  } else {
    fmt::print(stderr, "warning: {}\n", line);
  }
}

}  // namespace hone::data
