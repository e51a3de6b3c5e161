// Opening a data set: its files, what they hold, and the check of every record.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <filesystem>
#include <thread>

#include "core/error.h"
#include "core/thread_pool.h"
#include "data/dataset_impl.h"
#include "data/foreign_file.h"

namespace hone::data {

namespace fs = std::filesystem;

namespace {

// Changes when the same records would give other tokens.
constexpr uint64_t kPreparationVersion = 3;

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

Group group_of(Record::Kind kind) {
  if (kind == Record::Kind::kTokens) return Group::kAny;
  if (kind == Record::Kind::kPair) return Group::kAny;  // its format is said
  return kind == Record::Kind::kChat ? Group::kChats : Group::kTexts;
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

}  // namespace hone::data
