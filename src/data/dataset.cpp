#include "data/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/thread_pool.h"
#include "data/fields.h"
#include "data/foreign_file.h"
#include "data/format.h"
#include "data/pairs.h"
#include "data/record_json.h"
#include "data/sequences.h"
#include "data/source.h"

namespace hone::data {

namespace fs = std::filesystem;

namespace {

// Changes when the same records would give other tokens.
constexpr uint64_t kPreparationVersion = 3;

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

// Formats whose records may stand in one file.
enum class Group { kAny, kChats, kTexts };
Group group_of(Record::Kind kind) {
  if (kind == Record::Kind::kTokens) return Group::kAny;
  if (kind == Record::Kind::kPair) return Group::kAny;  // its format is said
  return kind == Record::Kind::kChat ? Group::kChats : Group::kTexts;
}
std::string_view group_name(Group group) {
  return group == Group::kChats ? "conversations" : "plain texts";
}

// Data in forms that aren't read is told; where there is no other, what to do is told as of a file.
std::vector<std::string> files_of_folder(const fs::path& folder,
                                         const std::function<void(const std::string&)>& warn) {
  std::vector<std::string> files, foreign;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string ending = entry.path().extension().string();
    if (!entry.is_regular_file() || entry.path().filename() == "dataset_info.json") continue;
    if (is_foreign_name(entry.path().string())) foreign.push_back(entry.path().string());
    if (ending == ".jsonl" || ending == ".json" || ending == ".ndjson" || ending == ".txt")
      files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  std::sort(foreign.begin(), foreign.end());
  if (files.empty() && !foreign.empty()) return {foreign[0]};
  if (!foreign.empty() && warn)
    warn(fmt::format("{}: {} of its files {} not read, being neither JSON nor plain text: {}{}",
                     folder.string(), foreign.size(), foreign.size() == 1 ? "is" : "are",
                     fs::path(foreign[0]).filename().string(), foreign.size() > 1 ? ", ..." : ""));
  if (files.empty())
    user_error("dataset", "{}: the folder holds no .jsonl, .json or .txt file", folder.string());
  return files;
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

struct Dataset::Impl {
  Impl(TextModel text_model, DatasetOptions dataset_options)
      : text(std::move(text_model)), options(std::move(dataset_options)) {}

  TextModel text;
  DatasetOptions options;
  std::vector<std::unique_ptr<Source>> sources;
  std::vector<FormatRules> rules;            // of each source
  std::vector<Group> groups;                 // of each source
  std::vector<DatasetFormat> first_formats;  // of each source's first record
  std::vector<int64_t> firsts;               // index of each source's first record, and the size
  std::optional<ConversationEncoder> encoder;
  uint64_t fingerprint = 0;
  bool checked = false;  // every record was read once

  mutable std::mutex mutex;
  mutable Noted untrainable, cut, by_answer, equal;
  std::vector<int32_t> turn_ends;
  FieldUse fields;

  std::pair<size_t, int64_t> locate(int64_t i) const {
    HONE_CHECK(i >= 0 && i < firsts.back());
    const auto at = std::upper_bound(firsts.begin(), firsts.end(), i) - 1;
    return {static_cast<size_t>(at - firsts.begin()), i - *at};
  }

  std::string location(size_t source, int64_t at) const {
    return fmt::format("{}:{}", sources[source]->path(), sources[source]->line(at));
  }

  // The record, interpreted. Throws RecordError.
  Record record(size_t source, const std::string& bytes) const {
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

  void check_group(size_t source, Record::Kind kind) const {
    const Group group = group_of(kind);
    if (group == Group::kAny || groups[source] == Group::kAny || group == groups[source]) return;
    throw RecordError(
        fmt::format("found a record of {} in a file that began with {}; split the file, or name "
                    "its format with "
                    "--dataset_format",
                    group_name(group), group_name(groups[source])));
  }

  TokenizedText tokenize(Record record) const;
  void add_source(const std::string& path, const std::optional<DatasetInfoEntry>& entry);
  void check_all();
  void look_at_fields();
  void find_turn_ends();
};

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

void Dataset::Impl::add_source(const std::string& path,
                               const std::optional<DatasetInfoEntry>& entry) {
  SourceOptions source_options;
  source_options.max_record_bytes = options.max_record_bytes;
  // About four bytes a token in most texts: pieces of three seldom exceed max_length tokens, so
  // little is cut off.
  source_options.text_piece_bytes = 3 * (options.max_length > 0 ? options.max_length : 2048);
  source_options.text_piece_bytes =
      std::min(source_options.text_piece_bytes, options.max_record_bytes);
  FormatRules rule;
  rule.format = options.format;
  if (entry) {
    if (rule.format == DatasetFormat::kAuto) rule.format = entry->format;
    rule.columns = entry->columns;
  }
  if (text.chat_template) {
    rule.template_source = &text.chat_template->source();
    rule.template_takes_reasoning =
        rule.template_source->find("reasoning_content") != std::string::npos;
  }
  source_options.text = rule.format == DatasetFormat::kText;
  auto source = std::make_unique<Source>(path, source_options);
  if (source->size() == 0) user_error("dataset", "{}: the file holds no record", path);
  sources.push_back(std::move(source));
  rules.push_back(std::move(rule));
  groups.push_back(Group::kAny);

  // The first records tell what the file holds.
  const size_t at = sources.size() - 1;
  std::string bytes;
  first_formats.push_back(DatasetFormat::kTokens);
  for (int64_t i = 0; i < std::min<int64_t>(sources[at]->size(), 16); ++i) {
    sources[at]->read(i, bytes);
    try {
      const Record first = record(at, bytes);
      if (i == 0) first_formats[at] = first.format;
      groups[at] = group_of(first.kind);
    } catch (const RecordError& e) {
      user_error("dataset", "{}: {}", location(at, i), e.what());
    }
    if (groups[at] != Group::kAny) break;
  }
}

// Fields of the records that were not checked are those of the first ones; then what they change.
void Dataset::Impl::look_at_fields() {
  std::string bytes;
  const auto read = [&](int64_t i) {
    const auto [source, at] = locate(i);
    sources[source]->read(at, bytes);
    return record(source, bytes);
  };
  if (!checked) {
    constexpr int64_t kLookedAt = 1024;
    for (int64_t i = 0; i < std::min(firsts.back(), kLookedAt); ++i) {
      try {
        fields.add(read(i), i);
      } catch (const RecordError&) {  // told when the record is used
      }
    }
  }
  if (!encoder) return;
  fields.find_unreached([&](int64_t i, const MessageField& field) {
    try {
      Record whole = read(i);
      Record less = whole;
      less.conversation = without_field(whole.conversation, field);
      const TokenizedText a = tokenize(std::move(whole)), b = tokenize(std::move(less));
      return a.tokens != b.tokens || a.trained != b.trained;
    } catch (const std::runtime_error&) {
      return true;  // the template needs it, or the record is refused: told when it is used
    }
  });
}

void Dataset::Impl::find_turn_ends() {
  if (!encoder) return;
  turn_ends = encoder->turn_ends();
  constexpr int64_t kLookedAt = 16;  // records of each file
  for (size_t s = 0; s < sources.size(); ++s) {
    std::string bytes;
    for (int64_t i = 0; i < std::min(sources[s]->size(), kLookedAt); ++i) {
      try {
        sources[s]->read(i, bytes);
        Record r = record(s, bytes);
        if (r.kind == Record::Kind::kPair) r = Record(r.sides[0]);
        if (r.kind != Record::Kind::kChat) break;
        for (const int32_t id : encoder->trained_ends(tokenize(std::move(r))))
          if (std::find(turn_ends.begin(), turn_ends.end(), id) == turn_ends.end())
            turn_ends.push_back(id);
      } catch (const RecordError&) {  // told when the record is used
        break;
      } catch (const UserError&) {
        break;
      }
    }
  }
}

// Every record once, on all threads; the first bad one is the one that is told.
void Dataset::Impl::check_all() {
  const int64_t n = firsts.back();
  std::atomic<int64_t> next{0}, bad{n};
  std::mutex fault_mutex;
  std::exception_ptr fault;
  constexpr int64_t kBlock = 256;
  const auto work = [&] {
    std::string bytes;
    FieldUse seen;
    for (;;) {
      const int64_t begin = next.fetch_add(kBlock);
      if (begin >= std::min(n, bad.load())) {
        const std::lock_guard lock(fault_mutex);
        fields.add(seen);
        return;
      }
      for (int64_t i = begin; i < std::min(begin + kBlock, n); ++i) {
        const auto [source, at] = locate(i);
        try {
          sources[source]->read(at, bytes);
          const Record r = record(source, bytes);
          check_group(source, r.kind);
          seen.add(r, i);
        } catch (...) {
          const std::lock_guard lock(fault_mutex);
          if (i < bad) {
            bad = i;
            fault = std::current_exception();
          }
          break;
        }
      }
    }
  };
  const int threads = static_cast<int>(std::min<int64_t>(
      options.threads > 0 ? options.threads : available_threads(), (n + kBlock - 1) / kBlock));
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads; ++t) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
  if (!fault) return;
  const auto [source, at] = locate(bad);
  try {
    std::rethrow_exception(fault);
  } catch (const RecordError& e) {
    user_error("dataset", "{}: {}", location(source, at), e.what());
  }
}

Dataset::Dataset(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Dataset::~Dataset() = default;

std::shared_ptr<const Dataset> Dataset::open(TextModel text, DatasetOptions options) {
  auto impl = std::make_unique<Impl>(std::move(text), std::move(options));
  const DatasetOptions& o = impl->options;
  if (o.paths.empty()) user_error("dataset", "no file was given; name one with --dataset");
  if (o.max_length < 0)
    user_error("dataset", "max_length is {}; expected a number of tokens, or 0 for no limit",
               o.max_length);
  if (o.max_record_bytes < 1 || o.max_record_bytes > INT32_MAX)
    user_error("dataset", "max_record_bytes is {}; expected 1 to {}", o.max_record_bytes,
               INT32_MAX);
  if (impl->text.chat_template) {
    ConversationEncoder::Options encoder_options;
    encoder_options.train_on = o.train_on;
    encoder_options.system_prompt =
        o.system_prompt.empty() ? impl->text.system_message : o.system_prompt;
    encoder_options.render = o.render;
    encoder_options.render.variables.update(impl->text.variables);
    impl->encoder.emplace(impl->text.tokenizer, *impl->text.chat_template,
                          std::move(encoder_options));
  }
  std::error_code ignored;
  for (const std::string& path : o.paths) {
    if (fs::is_directory(path, ignored)) {
      for (const std::string& file : files_of_folder(path, o.warn))
        impl->add_source(file, std::nullopt);
    } else if (!o.dataset_info.empty() && !fs::exists(path, ignored)) {
      const DatasetInfoEntry entry = find_dataset_info(o.dataset_info, path);
      const fs::path file = fs::path(o.dataset_info).parent_path() / entry.file;
      impl->add_source(file.string(), entry);
    } else {
      impl->add_source(path, std::nullopt);
    }
  }
  impl->firsts.push_back(0);
  int64_t bytes = 0;
  for (const auto& source : impl->sources) {
    impl->firsts.push_back(impl->firsts.back() + source->size());
    bytes += source->bytes();
  }
  for (Noted* noted : {&impl->untrainable, &impl->cut, &impl->by_answer, &impl->equal})
    noted->seen.resize(static_cast<size_t>((impl->firsts.back() + 63) / 64));

  Fingerprint f;
  f.add_value(kPreparationVersion);
  f.add_value(impl->text.fingerprint);
  for (const auto& source : impl->sources) {
    f.add_value(source->content_hash());
    f.add_value(static_cast<uint64_t>(source->container()));
    f.add_value(static_cast<uint64_t>(source->size()));
  }
  for (const auto& rule : impl->rules) {
    f.add_value(static_cast<uint64_t>(rule.format));
    f.add_value(rule.columns.has_value());
    if (!rule.columns) continue;
    const Columns& c = *rule.columns;
    for (const auto* text_field : {&c.prompt, &c.query, &c.response, &c.history, &c.messages,
                                   &c.system, &c.tools, &c.role_tag, &c.content_tag})
      f.add_text(*text_field);
    for (const auto& [from, to] : c.roles) {
      f.add_text(from);
      f.add_text(to);
    }
  }
  f.add_value(static_cast<uint64_t>(o.max_length));
  f.add_value(static_cast<uint64_t>(o.train_on));
  f.add_text(o.system_prompt);
  f.add_text(impl->text.system_message);
  f.add_text(o.render.tools.dump());
  f.add_text(o.render.documents.dump());
  f.add_text(o.render.variables.dump());
  f.add_text(impl->text.variables.dump());
  f.add_value(o.add_generation_prompt);
  f.add_value(o.append_eos);
  f.add_value(static_cast<uint64_t>(o.render.now));
  // A template that writes the date gives other text on another day.
  if (o.render.now < 0 && impl->text.chat_template &&
      impl->text.chat_template->source().find("strftime_now") != std::string::npos)
    f.add_value(static_cast<uint64_t>(std::time(nullptr) / 86400));
  impl->fingerprint = f.value();

  impl->checked = bytes <= o.check_bytes;
  if (impl->checked) impl->check_all();
  impl->look_at_fields();
  impl->find_turn_ends();
  const auto holds = [&](Group group) {
    return std::find(impl->groups.begin(), impl->groups.end(), group) != impl->groups.end();
  };
  const bool texts = holds(Group::kTexts);
  const bool endless = holds(Group::kChats) && impl->encoder && impl->turn_ends.empty();
  auto dataset = std::shared_ptr<const Dataset>(new Dataset(std::move(impl)));
  const std::string unreached = dataset->impl_->fields.unreached_fields();
  if (!unreached.empty())
    dataset->warn(
        fmt::format("fields of conversations that reach neither text nor mask, since the chat "
                    "template doesn't write them: {}{}",
                    unreached, dataset->impl_->checked ? "" : " among the first 1024"));
  if (endless)
    dataset->warn(
        "the chat template ends an answer with no special token of the tokenizer, so nothing that "
        "is trained tells where an answer ends; take a template whose turns end with one "
        "(--chat_template FILE)");
  if (texts && dataset->options().append_eos && dataset->text_model().eos().empty())
    dataset->warn(
        "the tokenizer names no end-of-text token, so texts are trained without an end; name one "
        "with --eos_token, or say --append_eos false");
  return dataset;
}

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
