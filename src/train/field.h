// How an option is declared: once, in its group's fields() (train/options.h). The command line
// (app/option_flags.h), run.json and the identity of a run are made from the same declarations.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include "data/dataset.h"
#include "io/run_folder.h"
#include "optim/adamw.h"
#include "text/conversation.h"

namespace hone::train {

enum class Saved {
  kSame,  // in run.json, and a run that goes on must have the same
  kFree,  // in run.json
  kNot,   // says nothing about the run
};

struct Field {
  const char* key;              // in run.json; the flag is --key where names doesn't say otherwise
  const char* help = nullptr;   // null: it has no flag of its own
  const char* names = nullptr;  // as app::Command::flag takes them: "-n,--num_epochs,--max_epochs"
  const char* value = nullptr;  // what stands for the value in help, where the type doesn't tell
  Saved saved = Saved::kSame;
};

// Bytes, written as "6GiB".
struct ByteCount {
  size_t bytes = 0;
  operator size_t() const { return bytes; }
};

enum class OnNonFinite { stop, skip };
enum class OnSaveError { stop, go_on };
enum class Reference { start, base };

// The words that stand for the values of an enum, in flags and in run.json.
template <class E>
inline constexpr std::array<std::pair<E, std::string_view>, 0> kWords{};
template <class E>
using Word = std::pair<E, std::string_view>;

template <>
inline constexpr auto kWords<OnNonFinite> =
    std::to_array<Word<OnNonFinite>>({{OnNonFinite::stop, "stop"}, {OnNonFinite::skip, "skip"}});
template <>
inline constexpr auto kWords<OnSaveError> = std::to_array<Word<OnSaveError>>(
    {{OnSaveError::stop, "stop"}, {OnSaveError::go_on, "continue"}});
template <>
inline constexpr auto kWords<Reference> =
    std::to_array<Word<Reference>>({{Reference::start, "start"}, {Reference::base, "base"}});
template <>
inline constexpr auto kWords<io::ExistingRun> =
    std::to_array<Word<io::ExistingRun>>({{io::ExistingRun::refuse, "refuse"},
                                          {io::ExistingRun::resume, "resume"},
                                          {io::ExistingRun::overwrite, "overwrite"}});
template <>
inline constexpr auto kWords<optim::Schedule> =
    std::to_array<Word<optim::Schedule>>({{optim::Schedule::cosine, "cosine"},
                                          {optim::Schedule::linear, "linear"},
                                          {optim::Schedule::constant, "constant"}});
template <>
inline constexpr auto kWords<TrainOn> = std::to_array<Word<TrainOn>>(
    {{TrainOn::kAssistant, "assistant"}, {TrainOn::kLast, "last"}, {TrainOn::kAll, "all"}});
template <>
inline constexpr auto kWords<data::DatasetFormat> = std::to_array<Word<data::DatasetFormat>>(
    {{data::DatasetFormat::kAuto, "auto"},
     {data::DatasetFormat::kMessages, "messages"},
     {data::DatasetFormat::kShareGpt, "sharegpt"},
     {data::DatasetFormat::kAlpaca, "alpaca"},
     {data::DatasetFormat::kPromptCompletion, "prompt_completion"},
     {data::DatasetFormat::kQuestionAnswer, "qa"},
     {data::DatasetFormat::kText, "text"},
     {data::DatasetFormat::kTokens, "tokens"}});

template <class E>
std::string_view word_of(E value) {
  for (const auto& [known, word] : kWords<E>)
    if (known == value) return word;
  return "";
}

}  // namespace hone::train
