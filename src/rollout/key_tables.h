// Which pages of a key cache each sequence's keys lie on, and which of them sequences share.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "backend/desc/key_blocks.h"
#include "models/inputs.h"

namespace hone::rollout {

// Pages that hold `keys` keys.
constexpr int64_t pages_for(int64_t keys) { return (keys + kKeyBlock - 1) / kKeyBlock; }

// A sequence's prompt (once it has ended, all its tokens) and its blocks: room for the whole
// prompt, then what grow() adds.
struct KeyTable {
  std::span<const int32_t> tokens;
  std::vector<models::CacheBlock> blocks;
};

// Hands out the pages of a cache. The tables of sequences whose prompts begin alike share the
// blocks of what they have in common, each as one that was there before (running, or ended and not
// needed for room yet): a shared key is computed once, by the first sequence that has it.
class KeyTables {
 public:
  // Blocks that a sequence may have half from another one; each may hold a page more than its own.
  static constexpr int64_t kMaxSplits = 2;
  // Pages that are always enough for `lanes` running sequences of at most `keys` keys; sharing: if
  // there is another one, now or before.
  static int64_t pages_needed(int64_t lanes, int64_t keys, bool sharing) {
    return lanes * (pages_for(keys) + (sharing ? kMaxSplits : 0));
  }

  explicit KeyTables(int64_t pages);

  // Starts a table; the prompt must live until end(). Returns how many keys of the prompt are
  // another sequence's, at most all but the last. The caller reads a sequence's prompt after those
  // of sequences begun before.
  int64_t begin(KeyTable& table, std::span<const int32_t> prompt,
                std::span<const KeyTable* const> running);
  // Gives the table room for `keys` keys.
  void grow(KeyTable& table, int64_t keys);
  // The sequence has ended; tokens: all whose keys are computed, the prompt first.
  void end(KeyTable table, std::vector<int32_t> tokens);

  int64_t pages() const { return static_cast<int64_t>(users_.size()); }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }

 private:
  int32_t take();
  int32_t share(int32_t page);
  void drop(int32_t page);
  void drop_oldest();

  // Its pages are kept until there is need for room.
  struct Ended {
    std::vector<int32_t> tokens;
    KeyTable table;
  };
  std::vector<int32_t> users_;  // of each page
  std::vector<int32_t> free_;   // the next to be taken last
  std::deque<Ended> ended_;
};

}  // namespace hone::rollout
