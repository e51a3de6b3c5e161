#include "data/sequences.h"

#include <fmt/format.h>
#include <algorithm>

#include "data/source.h"

namespace hone::data {
namespace {

// Calls fn(begin, length) for each sequence.
template <class F>
void for_each_sequence(const std::vector<int32_t>& lengths, size_t tokens, const F& fn) {
  if (lengths.empty()) return fn(size_t{0}, tokens);
  size_t begin = 0;
  for (const int32_t n : lengths) {
    fn(begin, static_cast<size_t>(n));
    begin += static_cast<size_t>(n);
  }
}

// What is left of a text whose sequences are cut to kept(begin, length) tokens; those of 0 go.
template <class F>
void keep_of_sequences(TokenizedText& text, const F& kept) {
  TokenizedText out;
  for_each_sequence(text.lengths, text.tokens.size(), [&](size_t begin, size_t length) {
    const size_t n = kept(begin, length);
    const auto first = static_cast<ptrdiff_t>(begin), end = static_cast<ptrdiff_t>(begin + n);
    out.tokens.insert(out.tokens.end(), text.tokens.begin() + first, text.tokens.begin() + end);
    out.trained.insert(out.trained.end(), text.trained.begin() + first, text.trained.begin() + end);
    if (!text.lengths.empty() && n > 0) out.lengths.push_back(static_cast<int32_t>(n));
  });
  text.tokens = std::move(out.tokens);
  text.trained = std::move(out.trained);
  text.lengths = std::move(out.lengths);
}

}  // namespace

void apply_turns(const std::vector<uint8_t>& turns, TrainOn train_on, TokenizedText& text) {
  if (turns.empty() || train_on == TrainOn::kAll) return;
  std::vector<std::pair<size_t, size_t>> runs;
  for (size_t t = 0; t < text.trained.size(); ++t) {
    if (!text.trained[t]) continue;
    if (runs.empty() || runs.back().second != t) runs.emplace_back(t, t);
    runs.back().second = t + 1;
  }
  const auto clear = [&](std::pair<size_t, size_t> run) {
    std::fill(text.trained.begin() + static_cast<ptrdiff_t>(run.first),
              text.trained.begin() + static_cast<ptrdiff_t>(run.second), uint8_t{0});
  };
  if (train_on == TrainOn::kLast) {
    if (!turns.back())
      for (const auto& run : runs) clear(run);
    return;
  }
  if (runs.size() != turns.size())
    throw RecordError(
        fmt::format("{} assistant turns but {} trained spans in what the template made of them, so "
                    "single turns "
                    "can't be left out; use --train_on last",
                    turns.size(), runs.size()));
  for (size_t k = 0; k < turns.size(); ++k)
    if (!turns[k]) clear(runs[k]);
}

bool cut_sequences(TokenizedText& text, size_t most) {
  bool cut = false;
  keep_of_sequences(text, [&](size_t, size_t length) {
    cut = cut || length > most;
    return std::min(length, most);
  });
  return cut;
}

void drop_untrained_sequences(TokenizedText& text) {
  if (std::find(text.trained.begin(), text.trained.end(), uint8_t{1}) == text.trained.end()) return;
  keep_of_sequences(text, [&](size_t begin, size_t length) {
    const auto first = text.trained.begin() + static_cast<ptrdiff_t>(begin);
    const auto end = first + static_cast<ptrdiff_t>(length);
    return std::find(first, end, uint8_t{1}) == end ? size_t{0} : length;
  });
}

}  // namespace hone::data
