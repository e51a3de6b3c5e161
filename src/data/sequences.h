// What becomes of a tokenised text's sequences before it is a sample, and what is said about
// samples.
#pragma once

#include <cstdint>
#include <vector>

#include "text/conversation.h"

namespace hone::data {

// Clears the trained tokens of assistant turns that are not to be trained. Turn k is the k-th run
// of trained tokens: turns are parted by their headers. RecordError where there are not as many.
void apply_turns(const std::vector<uint8_t>& turns, TrainOn train_on, TokenizedText& text);

// Cuts every sequence to `most` tokens. True if one was longer.
bool cut_sequences(TokenizedText& text, size_t most);

// Of several answers those that are not to be trained go, unless that is all of them.
void drop_untrained_sequences(TokenizedText& text);

// Samples of a data set of which something is to be said, each counted once.
struct Noted {
  std::vector<uint64_t> seen;  // a bit an index
  int64_t count = 0, first = -1;
  bool fresh = false;  // since the last warning
  void add(int64_t index) {
    uint64_t& word = seen[static_cast<size_t>(index / 64)];
    const uint64_t bit = uint64_t{1} << (index % 64);
    if (word & bit) return;
    word |= bit;
    if (count++ == 0 || index < first) first = index;
    fresh = true;
  }
};

}  // namespace hone::data
