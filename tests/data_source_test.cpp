// Finding records in files, and what is said of files that aren't as they should be.
#include "data/source.h"

#include <sys/resource.h>

#include <algorithm>
#include <random>

#include "data_test_util.h"

namespace hone::data {
namespace {

using data_test::message_of;
using data_test::TempFolder;

std::vector<std::string> records(const Source& source) {
  std::vector<std::string> out;
  for (int64_t i = 0; i < source.size(); ++i) source.read(i, out.emplace_back());
  return out;
}

TEST(Source, LinesWithMarkBlanksAndCarriageReturns) {
  TempFolder folder;
  const auto path =
      folder.write("a.jsonl", "\xEF\xBB\xBF{\"a\":1}\r\n\r\n  \t\n {\"b\":2} \r\n{\"c\":3}");
  const Source source(path, {});
  EXPECT_EQ(source.container(), Container::kLines);
  EXPECT_EQ(records(source), (std::vector<std::string>{"{\"a\":1}", "{\"b\":2}", "{\"c\":3}"}));
  EXPECT_EQ(source.line(0), 1);
  EXPECT_EQ(source.line(1), 4);
  EXPECT_EQ(source.line(2), 5);
}

TEST(Source, ListOfMessagesALineIsLinesAndListOfRecordsIsArray) {
  TempFolder folder;
  const auto container = [&](const std::string& content) {
    const Source source(folder.write("x.json", content), {});
    return std::pair(source.container(), source.size());
  };
  using P = std::pair<Container, int64_t>;
  EXPECT_EQ(container("[{\"role\":\"user\",\"content\":\"[{,\"}]\n[{\"role\":\"user\"}]"),
            P(Container::kLines, 2));
  EXPECT_EQ(container("[{\"role\":\"user\",\"content\":\"x\"}]"), P(Container::kLines, 1));
  EXPECT_EQ(container("[{\"from\":\"human\",\"value\":\"x\"}]"), P(Container::kLines, 1));
  EXPECT_EQ(container("[{\"instruction\":\"role\",\"output\":\"x\"},{\"x\":{\"role\":1}}]"),
            P(Container::kArray, 2));
  EXPECT_EQ(container("\n[\n[{\"role\":\"user\"}],\n[]\n]\n"), P(Container::kArray, 2));
  EXPECT_EQ(container("[]"), P(Container::kArray, 0));
  EXPECT_EQ(container("[]\n[]\n"), P(Container::kLines, 2));
}

TEST(Source, ArrayElementsWithQuotesAndBracketsInStrings) {
  TempFolder folder;
  const std::string tricky = R"({"a":"]},\"[{","b":[1,[2,{}]],"c":"\\"})";
  const auto path = folder.write("a.json", "[\n" + tricky + " ,\n \"s,]\" ,12\n,null]  \n");
  const Source source(path, {.text = false});
  EXPECT_EQ(records(source), (std::vector<std::string>{tricky, "\"s,]\"", "12", "null"}));
  EXPECT_EQ(source.line(0), 2);
  EXPECT_EQ(source.line(1), 3);
}

// The scanner against a JSON parser, on random values, with strings that straddle its buffers.
TEST(Source, ArrayAgreesWithParserOnRandomValues) {
  TempFolder folder;
  std::mt19937_64 random(7);
  const auto text = [&](size_t n) {
    static constexpr std::string_view kAlphabet = "a\"\\[]{},: \n\t";
    std::string s;
    for (size_t i = 0; i < n; ++i) s += kAlphabet[random() % kAlphabet.size()];
    return s;
  };
  Json array = Json::array();
  for (int i = 0; i < 300; ++i) {
    Json record = Json::object();
    record["instruction"] = text(random() % (i % 50 == 0 ? 200000 : 300));
    record["list"] = Json::array({text(random() % 20), Json::object({{"k", text(3)}}), 1.5});
    array.push_back(record);
  }
  for (const int indent : {-1, 0, 2}) {
    const Source source(folder.write("r.json", array.dump(indent)), {});
    ASSERT_EQ(source.size(), 300);
    const auto found = records(source);
    for (size_t i = 0; i < found.size(); ++i) ASSERT_EQ(Json::parse(found[i]), array[i]) << i;
  }
}

TEST(Source, RunningTextIsCutAtParagraphsAndLosesNothing) {
  TempFolder folder;
  std::string text;
  std::mt19937_64 random(3);
  const char* words[] = {"one ", "über ", "漢字", "🤔", "line\n", "paragraph\n\n", "x"};
  while (text.size() < 200000) text += words[random() % 7];
  for (const int64_t piece : {16, 100, 4096}) {
    const Source source(folder.write("t.txt", text), {.text_piece_bytes = piece});
    EXPECT_EQ(source.container(), Container::kText);
    std::string joined;
    for (const auto& record : records(source)) {
      EXPECT_LE(static_cast<int64_t>(record.size()), piece);
      EXPECT_EQ(find_invalid_utf8(record), std::string::npos);
      joined += record;
    }
    // Pieces of blanks alone are left out.
    const auto blankless = [](std::string s) {
      std::erase_if(s, [](char c) { return c == ' ' || c == '\n'; });
      return s;
    };
    EXPECT_EQ(blankless(joined), blankless(text));
    if (piece == 4096) {
      EXPECT_EQ(joined, text);
    }
  }
}

TEST(Source, HashTellsContentsApartNotSplits) {
  Fingerprint whole, pieces;
  const std::string text(1000, 'q');
  whole.add(text);
  std::mt19937_64 random(5);
  for (size_t at = 0; at < text.size();) {
    const size_t n = std::min<size_t>(text.size() - at, random() % 13);
    pieces.add(std::string_view(text).substr(at, n));
    at += n;
  }
  EXPECT_EQ(whole.value(), pieces.value());
  pieces.add("q");
  EXPECT_NE(whole.value(), pieces.value());
  Fingerprint a, b;
  a.add_text("ab");
  a.add_text("c");
  b.add_text("a");
  b.add_text("bc");
  EXPECT_NE(a.value(), b.value());
  Fingerprint zero, zeros;
  zero.add(std::string(1, '\0'));
  zeros.add(std::string(2, '\0'));
  EXPECT_NE(zero.value(), zeros.value());
}

TEST(Source, WhatIsWrongIsNamed) {
  TempFolder folder;
  const auto fault = [&](const std::string& name, const std::string& content,
                         SourceOptions options = {}) {
    const auto path = folder.write(name, content);
    const std::string text = message_of<UserError>([&] { Source(path, options); });
    EXPECT_HAS(text, path);
    return text;
  };
  EXPECT_HAS(message_of<UserError>([&] { Source(folder / "missing", {}); }), "no such file");
  EXPECT_HAS(message_of<UserError>([&] { Source(folder.path(), {}); }), "not a regular file");
  EXPECT_HAS(fault("a.jsonl", "\x1F\x8B\x08"), "gzip");
  EXPECT_HAS(fault("a.parquet", "PAR1xx"), "is a Parquet file; make JSON lines of it: python3 -c");
  EXPECT_HAS(fault("a.arrow", "ARROW1xx"), "Dataset.from_file(");
  EXPECT_HAS(fault("a.csv", "prompt,completion\nx,y\n"),
             "is a CSV file (it begins with prompt,completion); make JSON lines of it");
  EXPECT_HAS(fault("a.tsv", "prompt\tcompletion\r\nx\ty\n"), "read_csv(");
  EXPECT_HAS(fault("b.tsv", "prompt\tcompletion\r\nx\ty\n"), "sep='\\t'");
  EXPECT_HAS(fault("a.csv", "\xEF\xBB\xBF" + std::string(79, 'a') + "\xC3\xA9,b\n"), "CSV");
  EXPECT_HAS(fault("a.csv.gz", "\x1F\x8B\x08"), "gunzip -k");
  EXPECT_HAS(fault("a.jsonl", "PK\x03\x04xx"), "is a zip archive");
  EXPECT_HAS(fault("a.jsonl", "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull");
  // Their names don't matter where the content is JSON, or running text is asked for.
  EXPECT_EQ(Source(folder.write("c.csv", "{}\n{}\n"), {}).size(), 2);
  EXPECT_EQ(Source(folder.write("d.csv", "a,b\n"), {.text = true}).container(), Container::kText);
  EXPECT_HAS(fault("a.jsonl", std::string("\xFF\xFE{\0", 4)), "UTF-16");
  EXPECT_HAS(fault("a.json", "[{\"a\":1},\n{\"b\":2}"), ":2: the file ends inside its array");
  EXPECT_HAS(fault("a.json", "[{\"a\":\"b\n"), "the file ends inside its array");
  EXPECT_HAS(fault("a.json", "[{\"a\":1},\n\n,{}]"), ":3: found ',' with nothing before");
  EXPECT_HAS(fault("a.json", "[{\"a\":1}]\n{}"), ":2: found '{' after the end");
  EXPECT_HAS(fault("a.jsonl", "{}\n{\"a\":\"" + std::string(200, 'x') + "\"}\n",
                   {.max_record_bytes = 100}),
             ":2: the record that begins at byte 3 is over");
  EXPECT_HAS(fault("a.json", "[{},\n{\"a\":\"" + std::string(200, 'x') + "\"}]",
                   {.max_record_bytes = 100}),
             ":2: the record");
}

TEST(Source, LineOfHundredMegabytesIsRefusedWithoutReadingItIntoMemory) {
  TempFolder folder;
  for (const bool array : {false, true}) {
    const std::string path = folder / (array ? "long.json" : "long.jsonl");
    {
      std::ofstream file(path, std::ios::binary);
      file << (array ? "[{\"x\":1},\n{\"text\":\"" : "{\"text\":\"ok\"}\n{\"text\":\"");
      const std::string megabyte(1 << 20, 'x');
      for (int i = 0; i < 100; ++i) file << megabyte;
      file << (array ? "\"}]" : "\"}\n");
    }
    struct rusage before, after;
    ::getrusage(RUSAGE_SELF, &before);
    const std::string text = message_of<UserError>([&] { Source(path, {}); });
    ::getrusage(RUSAGE_SELF, &after);
    EXPECT_HAS(text, ":2: the record");
    EXPECT_HAS(text, "16777216");
    // One buffer of 1 MiB; seen: under 2 MiB more.
    EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 8 << 10);
  }
}

TEST(Source, ChangedFileIsNoticed) {
  TempFolder folder;
  const auto path = folder.write("a.jsonl", "{\"a\":1}\n{\"b\":2}\n");
  const Source source(path, {});
  std::string record;
  source.read(1, record);
  folder.write("a.jsonl", "{\"a\":1}\n");
  EXPECT_HAS(message_of<RuntimeError>([&] { source.read(0, record); }), "changed");
}

TEST(Source, Utf8) {
  for (const char* good : {"", "plain ascii text", "é", "漢字", "🤔🤔🤔🤔🤔",
                           "\xEF\xBF\xBF", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"})
    EXPECT_EQ(find_invalid_utf8(good), std::string::npos) << good;
  // Lone continuation, cut short, overlong, surrogate, above U+10FFFF, no UTF-8 byte at all.
  for (const char* bad : {"\x80", "\xE6\xBC", "\xC0\x80", "\xE0\x80\x80", "\xF0\x80\x80\x80",
                          "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "\xF8\x88\x80\x80\x80"}) {
    EXPECT_EQ(find_invalid_utf8(bad), 0u);
    EXPECT_EQ(find_invalid_utf8(std::string("eight by") + bad + "tail tail"), 8u);
  }
}

}  // namespace
}  // namespace hone::data
