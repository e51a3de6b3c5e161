// Which keys an attention's queries see, as a table of blocks of keys.
#pragma once

#include <cstdint>

namespace hone {

constexpr int kKeyBlock =
    64;  // keys are reduced in blocks of 64 counted from the sequence's first key,
constexpr int kKeyChunk =
    1024;  // online within chunks of 1024 keys, chunks merged in ascending order.

// Where one block of (up to) 64 keys of a sequence lies among the rows of k and v: its first
// `split` keys at rows row.., the rest at rows row_after.. (a shared prefix may end inside a
// block).
struct KeyBlock {
  int32_t row = 0;
  int32_t split = kKeyBlock;
  int32_t row_after = -1;
};

// Queries [q_begin, q_begin + q_len) of the stream attend to the sequence's first kv_len keys,
// causally: the last query sees all kv_len keys, query i sees kv_len - q_len + i + 1 of them.
// Its ceil(kv_len / 64) entries of the table of key blocks begin at first_block.
struct AttentionSegment {
  int32_t q_begin = 0;
  int32_t q_len = 0;
  int32_t kv_len = 0;
  int32_t first_block = 0;
};

}  // namespace hone
