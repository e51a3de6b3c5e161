// Inside of a data set: shared by what opens one (dataset_open.cpp) and what reads it
// (dataset.cpp).
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "data/dataset.h"
#include "data/fields.h"
#include "data/format.h"
#include "data/record_json.h"
#include "data/sequences.h"
#include "data/source.h"

namespace hone::data {

// Formats whose records may stand in one file.
enum class Group { kAny, kChats, kTexts };
Group group_of(Record::Kind kind);

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
  Record record(size_t source, const std::string& bytes) const;
  // Throws RecordError for a record of another group than its source's.
  void check_group(size_t source, Record::Kind kind) const;
  TokenizedText tokenize(Record record) const;
  void add_source(const std::string& path, const std::optional<DatasetInfoEntry>& entry);
  void check_all();
  void look_at_fields();
  void find_turn_ends();
};

}  // namespace hone::data
