#include "rollout/key_tables.h"

#include <algorithm>

#include "backend/desc/key_blocks.h"
#include "core/error.h"

namespace hone::rollout {
namespace {

using models::CacheBlock;

// How many of the first `keys` keys of a table another one may have: blocks as they are, then part
// of a block that is on one page, with kMaxSplits divided blocks at most.
int64_t usable_keys(const std::vector<CacheBlock>& blocks, int64_t keys) {
  int64_t splits = 0;
  const int64_t whole = keys / kKeyBlock;
  for (int64_t b = 0; b < whole; ++b) {
    if (blocks[static_cast<size_t>(b)].split == kKeyBlock) continue;
    if (++splits > KeyTables::kMaxSplits) return b * kKeyBlock;
  }
  if (keys % kKeyBlock == 0) return keys;
  if (splits == KeyTables::kMaxSplits) return whole * kKeyBlock;
  return std::min(keys, whole * kKeyBlock + blocks[static_cast<size_t>(whole)].split);
}

}  // namespace

KeyTables::KeyTables(int64_t pages) : users_(static_cast<size_t>(pages)) {
  for (int64_t p = pages - 1; p >= 0; --p) free_.push_back(static_cast<int32_t>(p));
}

int64_t KeyTables::begin(KeyTable& table, std::span<const int32_t> prompt,
                         std::span<const KeyTable* const> running) {
  HONE_CHECK(!prompt.empty() && table.blocks.empty());
  table.tokens = prompt;
  const KeyTable* with = nullptr;
  int64_t shared = 0;
  const auto consider = [&](const KeyTable& t) {
    const auto end =
        std::mismatch(prompt.begin(), prompt.end() - 1, t.tokens.begin(), t.tokens.end());
    const int64_t keys = usable_keys(t.blocks, end.first - prompt.begin());
    if (keys > shared) with = &t, shared = keys;
  };
  for (const KeyTable* t : running) consider(*t);
  for (const Ended& e : ended_) consider(e.table);

  for (int64_t b = 0; b * kKeyBlock < shared; ++b) {
    const CacheBlock& from = with->blocks[static_cast<size_t>(b)];
    const auto keys = static_cast<int32_t>(std::min<int64_t>(shared - b * kKeyBlock, kKeyBlock));
    CacheBlock to{.page = share(from.page), .split = std::min(keys, from.split)};
    if (keys == kKeyBlock && from.split < kKeyBlock) to.after = share(from.after);
    table.blocks.push_back(to);
  }
  // `with` may be dropped from here on.
  if (shared % kKeyBlock > 0) table.blocks.back().after = take();
  grow(table, static_cast<int64_t>(prompt.size()));
  return shared;
}

void KeyTables::grow(KeyTable& table, int64_t keys) {
  while (static_cast<int64_t>(table.blocks.size()) < pages_for(keys))
    table.blocks.push_back({.page = take()});
}

void KeyTables::end(KeyTable table, std::vector<int32_t> tokens) {
  const auto kept = static_cast<size_t>(pages_for(static_cast<int64_t>(tokens.size())));
  HONE_CHECK(tokens.size() >= table.tokens.size() && table.blocks.size() >= kept);
  for (; table.blocks.size() > kept; table.blocks.pop_back()) drop(table.blocks.back().page);
  table.tokens = tokens;
  ended_.push_back({std::move(tokens), std::move(table)});
}

int32_t KeyTables::take() {
  while (free_.empty()) drop_oldest();
  const int32_t page = free_.back();
  free_.pop_back();
  users_[static_cast<size_t>(page)] = 1;
  return page;
}

int32_t KeyTables::share(int32_t page) {
  ++users_[static_cast<size_t>(page)];
  return page;
}

void KeyTables::drop(int32_t page) {
  if (--users_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

void KeyTables::drop_oldest() {
  HONE_CHECK(!ended_.empty(), "the cache has fewer pages than its sequences need");
  for (const CacheBlock& b : ended_.front().table.blocks) {
    drop(b.page);
    if (b.split < kKeyBlock) drop(b.after);
  }
  ended_.pop_front();
}

}  // namespace hone::rollout
