#include "data/foreign_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>

namespace hone::data {
namespace {

std::string lower_ending(std::string_view path) {
  std::string ending = std::filesystem::path(path).extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return ending;
}

// A line of Python that reads the file with `reader` of pandas, and writes JSON lines beside it.
std::string by_pandas(std::string_view path, std::string_view reader, std::string_view more = "") {
  return fmt::format(
      "make JSON lines of it: python3 -c \"import pandas as p; p.{}('{}'{}).to_json('{}', "
      "orient='records', lines=True, force_ascii=False)\"",
      reader, path, more, std::filesystem::path(path).replace_extension(".jsonl").string());
}

std::string csv_file(std::string_view path, std::string_view head, bool tabs) {
  if (const size_t bad = head.find_first_of("\r\n"); bad != std::string_view::npos)
    head = head.substr(0, bad);
  std::string columns;
  for (const char c : head.substr(0, 80)) columns += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  while (!columns.empty() && static_cast<unsigned char>(columns.back()) >= 0x80 && head.size() > 80)
    columns.pop_back();  // a character that was cut
  return fmt::format("is a {} file (it begins with {}); {}", tabs ? "TSV" : "CSV", columns,
                     by_pandas(path, "read_csv", tabs ? ", sep='\\t'" : ""));
}

}  // namespace

std::string foreign_file(std::string_view path, std::string_view head) {
  const auto starts = [&](std::string_view magic) { return head.starts_with(magic); };
  if (starts("\xFF\xFE") || starts("\xFE\xFF"))
    return "is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)";
  if (starts("\x1F\x8B"))
    return fmt::format("is compressed with gzip; unpack it first: gunzip -k '{}'", path);
  if (starts("\x28\xB5\x2F\xFD"))
    return fmt::format("is compressed with zstd; unpack it first: unzstd '{}'", path);
  if (starts("BZh"))
    return fmt::format("is compressed with bzip2; unpack it first: bunzip2 -k '{}'", path);
  if (starts("\xFD"
             "7zXZ"))
    return fmt::format("is compressed with xz; unpack it first: unxz -k '{}'", path);
  const std::string ending = lower_ending(path);
  if (starts("PK\x03\x04"))
    return ending == ".xlsx" ? "is an Excel file; " + by_pandas(path, "read_excel")
                             : std::string("is a zip archive; unpack it first");
  if (starts("PAR1")) return "is a Parquet file; " + by_pandas(path, "read_parquet");
  if (starts("ARROW1") || (ending == ".arrow" && starts("\xFF\xFF\xFF\xFF")))
    return fmt::format(
        "is an Arrow file; make JSON lines of it: python3 -c \"import datasets as d; "
        "d.Dataset.from_file('{}').to_json('{}')\"",
        path, std::filesystem::path(path).replace_extension(".jsonl").string());
  if (starts("version https://git-lfs"))
    return "is a Git LFS pointer, not the data; fetch it with git lfs pull";

  const size_t first = head.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || head[first] == '{' || head[first] == '[') return "";
  if (ending == ".csv" || ending == ".tsv") return csv_file(path, head, ending == ".tsv");
  return "";
}

bool is_foreign_name(std::string_view path) {
  static constexpr std::array<std::string_view, 9> kEndings = {
      ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz", ".xlsx"};
  return std::find(kEndings.begin(), kEndings.end(), lower_ending(path)) != kEndings.end();
}

}  // namespace hone::data
