// Tables of cache pages: what sequences share, that nobody writes what another reads, and that the
// pages announced are enough.
#include "backend/desc/attention.h"
#include "rollout/key_tables.h"

#include <gtest/gtest.h>

#include <list>
#include <map>
#include <random>

namespace hone::rollout {
namespace {

using Tokens = std::vector<int32_t>;

// n tokens, the first `common` of them those of every prompt made with `family`.
Tokens prompt(int n, int common, int family, int own) {
  Tokens t;
  for (int i = 0; i < n; ++i)
    t.push_back(i < common ? 1000 * family + i : 1000000 + 1000 * own + i);
  return t;
}

int32_t place(const KeyTable& t, int32_t position) {
  return t.blocks.at(static_cast<size_t>(position / kKeyBlock)).page_of(position) * kKeyBlock +
         position % kKeyBlock;
}

TEST(KeyTables, ShareWhatPromptsHaveInCommon) {
  for (const int common : {0, 1, 24, 64, 70, 128, 199}) {
    const Tokens a = prompt(200, common, 1, 1), b = prompt(300, common, 1, 2);
    KeyTables tables(20);
    KeyTable ta, tb;
    EXPECT_EQ(tables.begin(ta, a, {}), 0);
    const KeyTable* running[] = {&ta};
    EXPECT_EQ(tables.begin(tb, b, running), common);
    for (int i = 0; i < 200; ++i) EXPECT_EQ(place(ta, i) == place(tb, i), i < common) << i;
    // 4 and 5 pages, less those that are wholly shared
    EXPECT_EQ(tables.free_pages(), 20 - 4 - (5 - common / kKeyBlock));
  }
}

TEST(KeyTables, TheSamePromptIsComputedButForItsLastToken) {
  for (const int n : {1, 2, 64, 65, 130}) {
    const Tokens p = prompt(n, n, 1, 1);
    KeyTables tables(12);
    KeyTable a, b, c;
    EXPECT_EQ(tables.begin(a, p, {}), 0);
    const KeyTable* one[] = {&a};
    EXPECT_EQ(tables.begin(b, p, one), n - 1);
    const KeyTable* two[] = {&a, &b};
    EXPECT_EQ(tables.begin(c, p, two), n - 1);
    tables.end(std::move(a), p);
    tables.end(std::move(b), p);
    tables.end(std::move(c), p);
    KeyTable d;  // from those that have ended
    EXPECT_EQ(tables.begin(d, p, {}), n - 1);
  }
}

// Two groups of samples under one system prompt: the second group's prompt divides a block with
// the first's, and its samples share it all the same.
TEST(KeyTables, GroupsUnderOneSystemPrompt) {
  const Tokens first = prompt(90, 24, 1, 1), second = prompt(100, 24, 1, 2);
  std::list<KeyTable> all;
  KeyTables tables(KeyTables::pages_needed(8, 120, true));
  for (int i = 0; i < 8; ++i) {
    std::vector<const KeyTable*> running;
    for (const KeyTable& t : all) running.push_back(&t);
    const int64_t shared = tables.begin(all.emplace_back(), i < 4 ? first : second, running);
    EXPECT_EQ(shared, i == 0 ? 0 : i < 4 ? 89 : i == 4 ? 24 : 99) << i;
  }
}

// The next turn of a conversation: the last one's prompt and answer are there.
TEST(KeyTables, AnswersAreThereForTheNextTurn) {
  const Tokens first = prompt(90, 0, 0, 1);
  KeyTables tables(KeyTables::pages_needed(1, 300, true));
  KeyTable t, u;
  tables.begin(t, first, {});
  tables.grow(t, 150);
  Tokens read = first;
  for (int i = 0; i < 60; ++i) read.push_back(7000 + i);
  tables.end(std::move(t), read);
  Tokens second = read;
  for (int i = 0; i < 20; ++i) second.push_back(9000 + i);
  EXPECT_EQ(tables.begin(u, second, {}), 150);
}

TEST(KeyTables, LetGoOfEndedPromptsForRoom) {
  KeyTables tables(3);
  const Tokens a = prompt(128, 0, 0, 1), b = prompt(128, 0, 0, 2),
               short_a(a.begin(), a.begin() + 70);
  KeyTable t, u, v;
  tables.begin(t, a, {});
  tables.end(std::move(t), a);
  EXPECT_EQ(tables.begin(u, b, {}), 0);  // takes the last page, and those of a
  EXPECT_EQ(tables.free_pages(), 1);
  tables.end(std::move(u), b);
  EXPECT_EQ(tables.begin(v, short_a, {}), 0);
}

// Sequences of random families come and go: a place that two share is one where all their tokens
// so far agree, and neither draws there.
TEST(KeyTables, NobodyWritesWhatAnotherReads) {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 40; ++round) {
    const int lanes = 1 + below(6), total = 60, longest = 1 + below(300), most_new = 1 + below(150);
    std::list<Tokens> prompts;  // outlive the tables
    KeyTables tables(KeyTables::pages_needed(lanes, longest + most_new, true));
    struct Sequence {
      KeyTable table;
      int64_t keys, shared;
    };
    std::list<Sequence> running;
    int64_t shared_keys = 0;
    for (int started = 0; started < total || !running.empty();) {
      while (static_cast<int>(running.size()) < lanes && started < total) {
        const int n = 1 + below(longest);
        const Tokens& p =
            prompts.emplace_back(prompt(n, below(3) == 0 ? n : below(n + 1), below(2), started));
        std::vector<const KeyTable*> now;
        for (const Sequence& s : running) now.push_back(&s.table);
        Sequence& s = running.emplace_back();
        s.shared = tables.begin(s.table, p, now);
        s.keys = n + below(most_new + 1);
        ASSERT_LT(s.shared, n);
        shared_keys += s.shared;
        tables.grow(s.table, s.keys);
        ++started;
      }
      // who writes a place, and what every table believes is there
      std::map<int32_t, const Sequence*> writer;
      std::map<int32_t, Tokens> content;
      for (const Sequence& s : running) {
        for (int64_t i = 0; i < s.keys; ++i) {
          const int32_t at = place(s.table, static_cast<int32_t>(i));
          if (i >= s.shared) {
            ASSERT_TRUE(writer.emplace(at, &s).second);
          }
          const auto n = static_cast<int64_t>(s.table.tokens.size());
          const Tokens so_far =
              i < n ? Tokens(s.table.tokens.begin(), s.table.tokens.begin() + i + 1) : Tokens{-1};
          const auto [known, fresh] = content.emplace(at, so_far);
          if (!fresh) {
            ASSERT_EQ(known->second, so_far);
          }
        }
      }
      auto gone = std::next(running.begin(), below(static_cast<int>(running.size())));
      Tokens all(gone->table.tokens.begin(), gone->table.tokens.end());
      while (static_cast<int64_t>(all.size()) < gone->keys) all.push_back(2000000 + below(1000));
      tables.end(std::move(gone->table), all);
      running.erase(gone);
    }
    if (longest > 100) {
      EXPECT_GT(shared_keys, 0);
    }
  }
}

}  // namespace
}  // namespace hone::rollout
