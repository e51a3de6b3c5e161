#include "text/align.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"

namespace hone {
namespace {

// A stretch [text_begin, text_end) of the text that the tokenizer wrote as
// [made_begin, made_end) of the tokens' bytes.
struct Rewrite {
  int64_t text_begin, text_end, made_begin, made_end;
};

bool is_char_start(std::string_view s, size_t i) {
  return i >= s.size() || (static_cast<unsigned char>(s[i]) & 0xC0) != 0x80;
}

// How many bytes must agree before the two run along each other again; fewer at the end.
constexpr size_t kAgree = 6;
constexpr size_t kWindow = 4096;

bool agree(std::string_view text, size_t i, std::string_view made, size_t j) {
  const size_t left_text = text.size() - i;
  const size_t left_made = made.size() - j;
  if (left_text == 0 || left_made == 0) return left_text == left_made;
  const size_t n = std::min({kAgree, left_text, left_made});
  if (n < kAgree && left_text != left_made) return false;
  return text.substr(i, n) == made.substr(j, n);
}

// The stretches where the two differ, by the nearest place where they agree again.
std::vector<Rewrite> rewrites(std::string_view text, std::string_view made) {
  std::vector<Rewrite> found;
  size_t i = 0;
  size_t j = 0;
  // Sentencepiece puts a space before everything; with spaces following, only this tells which.
  constexpr size_t kHead = 64;
  if (made.size() > text.size() && made[0] == ' ' &&
      made.substr(1, std::min(kHead, text.size())) == text.substr(0, kHead)) {
    found.push_back({0, 0, 0, 1});
    j = 1;
  }
  while (i < text.size() || j < made.size()) {
    const size_t most = std::min(text.size() - i, made.size() - j);
    size_t same = 0;
    while (same < most && text[i + same] == made[j + same]) same++;
    i += same;
    j += same;
    if (i == text.size() && j == made.size()) break;
    // A difference starts with a whole character, and with what may combine with it.
    while (i > 0 && j > 0 && (!is_char_start(text, i) || !is_char_start(made, j))) i--, j--;
    bool met = false;
    for (size_t away = 1; away <= kWindow && !met; away++) {
      for (size_t di = 0; di <= away && !met; di++) {
        const size_t dj = away - di;
        if (i + di > text.size() || j + dj > made.size()) continue;
        if (!is_char_start(text, i + di) || !is_char_start(made, j + dj)) continue;
        if (!agree(text, i + di, made, j + dj)) continue;
        found.push_back({static_cast<int64_t>(i), static_cast<int64_t>(i + di),
                         static_cast<int64_t>(j), static_cast<int64_t>(j + dj)});
        i += di;
        j += dj;
        met = true;
      }
    }
    if (!met) {
      user_error("tokenizer",
                 "the tokenizer rewrites the text near byte {} beyond recognition, so which tokens "
                 "belong to which text is not known",
                 i);
    }
  }
  return found;
}

}  // namespace

void align_tokens(std::string_view text, std::span<const int32_t> ids,
                  const std::function<std::string_view(int32_t)>& bytes_of,
                  std::span<ByteRange> ranges) {
  HONE_CHECK(ids.size() == ranges.size());
  int64_t at = 0;
  bool exact = true;
  for (size_t t = 0; t < ids.size(); t++) {
    const std::string_view bytes = bytes_of(ids[t]);
    const auto size = static_cast<int64_t>(bytes.size());
    if (exact && text.substr(std::min<size_t>(at, text.size()), bytes.size()) != bytes) {
      exact = false;
    }
    ranges[t] = {at, at + size};
    at += size;
  }
  if (exact && at == static_cast<int64_t>(text.size())) return;

  std::string made;
  made.reserve(at);
  for (int32_t id : ids) made += bytes_of(id);
  const std::vector<Rewrite> list = rewrites(text, made);
  size_t next = 0;
  int64_t shift = 0;  // text position minus made position, before rewrite `next`
  for (ByteRange& range : ranges) {
    const int64_t begin = range.begin;
    const int64_t end = range.end;
    while (next < list.size() && list[next].made_end <= begin) {
      // A stretch that left no bytes, right where this token begins, belongs to nobody.
      shift = list[next].text_end - list[next].made_end;
      next++;
    }
    ByteRange mapped = {begin + shift, end + shift};
    size_t k = next;
    int64_t inner = shift;
    if (k < list.size() && list[k].made_begin <= begin) mapped.begin = list[k].text_begin;
    while (k < list.size() && list[k].made_begin < end) {
      inner = list[k].text_end - list[k].made_end;
      mapped.end = list[k].made_end >= end ? list[k].text_end : end + inner;
      k++;
    }
    range = mapped;
  }
}

}  // namespace hone
