// The safetensors format: what is written reads back, and every damaged or lying file is refused
// with a sentence.
#include "io/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "core/thread_pool.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string file_text(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string text(reinterpret_cast<const char*>(&length), 8);
  return text + header + std::string(data_bytes, '\1');
}

// The error's text for a header followed by so many bytes of data; empty if it is accepted.
std::string error_of(const std::string& header, size_t data_bytes) {
  const std::string text = file_text(header, data_bytes);
  try {
    parse_safetensors_header(bytes_of(text), text.size(), "w.safetensors");
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

void expect_error(const std::string& header, size_t data, const std::vector<std::string>& parts) {
  const std::string text = error_of(header, data);
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos)
        << "wanted " << part << " for " << header << " in: " << text;
  }
}

std::string tensor(const char* name, const char* type, const char* shape, const char* offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, type, shape,
                     offsets);
}

TEST(SafetensorsHeader, GoodFiles) {
  EXPECT_EQ(error_of("{}", 0), "");
  EXPECT_EQ(error_of("{}      ", 0), "");
  EXPECT_EQ(error_of("{" + tensor("a", "F32", "[2,3]", "[0,24]") + "}", 24), "");
  EXPECT_EQ(error_of("{" + tensor("b", "BF16", "[]", "[24,26]") + "," +
                         tensor("a", "F32", "[2,3]", "[0,24]") + "}",
                     26),
            "");
  EXPECT_EQ(error_of("{" + tensor("e", "I64", "[0, 9223372036854775807]", "[0,0]") + "}", 0), "");
  const std::string text = file_text(
      "{\"__metadata__\":{\"format\":\"pt\"}," + tensor("x", "U8", "[5]", "[0,5]") + "}", 5);
  const SafetensorsHeader header = parse_safetensors_header(bytes_of(text), text.size(), "w");
  EXPECT_EQ(header.metadata.at("format"), "pt");
  ASSERT_EQ(header.tensors.size(), 1u);
  EXPECT_EQ(header.tensors[0].offset, text.size() - 5);
  EXPECT_EQ(header.tensors[0].elements(), 5);
}

TEST(SafetensorsHeader, LyingOffsets) {
  expect_error("{" + tensor("a", "F32", "[2]", "[0,8]") + "}", 4, {"\"a\"", "0 to 8", "4 bytes"});
  expect_error("{" + tensor("a", "F32", "[2]", "[8,0]") + "}", 8, {"\"a\"", "8 to 0"});
  expect_error("{" + tensor("a", "F32", "[3]", "[0,8]") + "}", 8, {"needs 12 bytes", "hold 8"});
  expect_error("{" + tensor("a", "F32", "[2]", "[0,8]") + "}", 12, {"end at byte 8", "12"});
  expect_error("{" + tensor("a", "F32", "[2]", "[4,12]") + "}", 12, {"0 to 4", "no tensor"});
  expect_error(
      "{" + tensor("a", "F32", "[2]", "[0,8]") + "," + tensor("b", "F32", "[2]", "[4,12]") + "}",
      12, {"\"b\"", "inside tensor \"a\""});
  expect_error(
      "{" + tensor("a", "F32", "[2]", "[0,8]") + "," + tensor("b", "F32", "[1]", "[12,16]") + "}",
      16, {"8 to 12", "no tensor"});
  expect_error("{" + tensor("a", "F32", "[2]", "[0,18446744073709551615]") + "}", 8,
               {"18446744073709551615"});
  expect_error("{" + tensor("a", "F32", "[4294967296,4294967296]", "[0,0]") + "}", 0,
               {"overflows"});
  expect_error("{" + tensor("a", "F64", "[2305843009213693952]", "[0,0]") + "}", 0, {"overflows"});
  expect_error("{" + tensor("a", "F32", "[9223372036854775808]", "[0,0]") + "}", 0, {"dimension"});
}

TEST(SafetensorsHeader, WrongForm) {
  expect_error("{" + tensor("a", "F31", "[1]", "[0,4]") + "}", 4, {"\"F31\"", "\"a\""});
  expect_error("{" + tensor("a", "F32", "[-1]", "[0,4]") + "}", 4, {"-1"});
  expect_error("{" + tensor("a", "F32", "[1.0]", "[0,4]") + "}", 4, {"1.0"});
  expect_error("{" + tensor("a", "F32", "[99999999999999999999]", "[0,4]") + "}", 4, {"9999"});
  expect_error("{" + tensor("a", "F32", "[[1]]", "[0,4]") + "}", 4, {"a list"});
  expect_error("{" + tensor("a", "F32", "[1]", "[0]") + "}", 4, {"fewer than two"});
  expect_error("{" + tensor("a", "F32", "[1]", "[0,4,4]") + "}", 4, {"more than two"});
  expect_error("{" + tensor("a", "F32", "1", "[0,4]") + "}", 4, {"the number 1"});
  expect_error("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, {"lacks"});
  expect_error("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
               4, {"twice"});
  expect_error("{\"a\":{\"kind\":1}}", 4, {"unknown field", "kind"});
  expect_error("{\"a\":7}", 4, {"\"a\"", "the number 7"});
  expect_error("{\"a\":[]}", 4, {"a list"});
  expect_error("{\"a\":null}", 4, {"null"});
  expect_error("{\"__metadata__\":{\"k\":1}}", 0, {"metadata", "\"k\""});
  expect_error("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, {"twice"});
  expect_error("{\"__metadata__\":{},\"__metadata__\":{}}", 0, {"twice"});
  const std::string a = tensor("a", "F32", "[1]", "[0,4]");
  expect_error("{" + a + "," + a + "}", 4, {"\"a\" occurs twice"});
  expect_error("{" + tensor("a", "F32", "[1]", "[0,4]"), 4, {"not valid JSON"});
  expect_error("[]", 0, {"brace"});
  expect_error("", 0, {"brace"});
  expect_error("{} x", 0, {"not valid JSON"});
  expect_error("{\"\xff\":1}", 0, {"not valid JSON"});
  expect_error(std::string("{\"a\":") + std::string(100000, '['), 0, {"a list"});
}

TEST(SafetensorsHeader, Lengths) {
  auto error = [](std::string text) {
    try {
      parse_safetensors_header(bytes_of(text), text.size(), "w");
    } catch (const UserError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(error("").find("too few"), std::string::npos);
  EXPECT_NE(error("1234567").find("too few"), std::string::npos);
  EXPECT_NE(error(std::string(8, '\xff')).find("18446744073709551615"), std::string::npos);
  std::string text(8, '\0');
  text[1] = 1;  // announces 256 bytes
  EXPECT_NE(error(text + "{}").find("256"), std::string::npos);
  text = std::string(8, '\0');
  text[3] = 10;  // 160 MB
  EXPECT_NE(error(text + "{}").find("100000000"), std::string::npos);
}

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              fmt::format("hone_safetensors_{}_{}", getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string read(const std::string& name) {
    std::ifstream in(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write_floats(const std::string& name,
                    const std::vector<std::pair<std::string, float>>& all) {
    std::vector<TensorDecl> decls;
    for (const auto& [tensor, value] : all) decls.push_back({tensor, FileType::f32, {1}});
    SafetensorsWriter writer(folder_ / name, decls);
    for (const auto& [tensor, value] : all)
      writer.write(tensor, std::as_bytes(std::span(&value, 1)));
    writer.finish();
  }
  std::string open_error() {
    try {
      CheckpointReader::open(folder_);
    } catch (const UserError& e) {
      return e.what();
    }
    return "";
  }
  std::vector<std::string> listing() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  fs::path folder_;
};

TEST_F(Files, WrittenReadsBack) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<uint8_t> b = {7, 8, 9};
  const std::vector<double> c = {1e300};
  // The one-byte tensor is declared first, but must not push the others off their alignment.
  SafetensorsWriter writer(folder_ / "w.safetensors",
                           {{"b \"quoted\"", FileType::u8, {3}},
                            {"a", FileType::f32, {2, 3}},
                            {"c", FileType::f64, {}},
                            {"none", FileType::bf16, {0, 4}}},
                           {{"format", "pt"}, {"who", "hone"}});
  EXPECT_EQ(listing().size(), 1u);  // a temporary name
  EXPECT_FALSE(fs::exists(folder_ / "w.safetensors"));
  const auto raw = std::as_bytes(std::span(a));
  writer.write("b \"quoted\"", std::as_bytes(std::span(b)));
  writer.write("a", raw.first(7));
  writer.write("c", std::as_bytes(std::span(c)));
  writer.write("a", raw.subspan(7));
  writer.finish();
  EXPECT_EQ(listing(), std::vector<std::string>{"w.safetensors"});
  EXPECT_EQ(fs::file_size(folder_ / "w.safetensors"), writer.file_bytes());
  const SafetensorsFile file = SafetensorsFile::open(folder_ / "w.safetensors");
  EXPECT_EQ(file.copied_bytes(), 0u);
  EXPECT_EQ(file.metadata().at("who"), "hone");
  EXPECT_EQ(std::memcmp(file.at("a").data, a.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.at("b \"quoted\"").data, b.data(), 3), 0);
  EXPECT_EQ(std::memcmp(file.at("c").data, c.data(), 8), 0);
  EXPECT_EQ(file.at("a").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.at("none").bytes, 0u);
  EXPECT_EQ(file.find("d"), nullptr);
  EXPECT_THROW(file.at("d"), UserError);
  file.map().advise(MappedFile::Advice::will_need);
  file.map().advise(MappedFile::Advice::dont_need, 5, 100000);
  EXPECT_EQ(std::memcmp(file.at("a").data, a.data(), 24), 0);
}

TEST_F(Files, AbandonedWriterLeavesNothing) {
  write("w.safetensors", "old");
  {
    SafetensorsWriter writer(folder_ / "w.safetensors", {{"a", FileType::f32, {4}}});
    const float v = 1;
    writer.write("a", std::as_bytes(std::span(&v, 1)));
    EXPECT_THROW(writer.finish(), InternalError);  // incomplete
    EXPECT_THROW(writer.write("z", {}), InternalError);
  }
  EXPECT_EQ(listing(), std::vector<std::string>{"w.safetensors"});
  EXPECT_EQ(read("w.safetensors"), "old");
}

// The limit on file sizes stands for a disk that is full.
TEST_F(Files, FullDiskKeepsTheOldFile) {
  write("w.safetensors", "old");
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 1 << 16;
  setrlimit(RLIMIT_FSIZE, &small);
  std::string error;
  try {
    SafetensorsWriter writer(folder_ / "w.safetensors", {{"a", FileType::f32, {1 << 20}}});
    const std::vector<float> values(1 << 20);
    writer.write("a", std::as_bytes(std::span(values)));
    writer.finish();
  } catch (const RuntimeError& e) {
    error = e.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_NE(error.find("w.safetensors"), std::string::npos);
  EXPECT_NE(error.find("unchanged"), std::string::npos);
  EXPECT_NE(error.find("4194"), std::string::npos) << error;  // the bytes needed
  EXPECT_EQ(listing(), std::vector<std::string>{"w.safetensors"});
  EXPECT_EQ(read("w.safetensors"), "old");
}

TEST_F(Files, FolderThatCannotBeWritten) {
  try {
    SafetensorsWriter writer(folder_ / "absent/w.safetensors", {});
    FAIL();
  } catch (const RuntimeError& e) {
    EXPECT_NE(std::string(e.what()).find("No such file"), std::string::npos);
  }
}

// Older writers did not pad the header; such tensors are copied, not refused.
TEST_F(Files, MisalignedTensorsAreCopied) {
  std::string header = "{" + tensor("a", "F32", "[2]", "[0,8]") + "}";
  while (header.size() % 4 != 1) header += ' ';
  const float values[2] = {1.5f, -2};
  std::string text = file_text(header, 0);
  text.append(reinterpret_cast<const char*>(values), 8);
  write("model.safetensors", text);
  const CheckpointReader reader = CheckpointReader::open(folder_);
  const TensorEntry& a = reader.at("a");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data) % 4, 0u);
  EXPECT_EQ(std::memcmp(a.data, values, 8), 0);
  EXPECT_EQ(reader.files()[0].copied_bytes(), 8u);
}

TEST_F(Files, TruncatedAtEveryLength) {
  write_floats("model.safetensors", {{"a", 1}, {"b", 2}});
  const std::string whole = read("model.safetensors");
  for (size_t length = 0; length < whole.size(); ++length) {
    write("model.safetensors", whole.substr(0, length));
    EXPECT_NE(open_error(), "") << length;
  }
  write("model.safetensors", whole + "x");
  EXPECT_NE(open_error(), "");
  write("model.safetensors", whole);
  EXPECT_EQ(open_error(), "");
}

TEST_F(Files, Shards) {
  write_floats("s1.safetensors", {{"a", 1}, {"b", 2}});
  write_floats("s2.safetensors", {{"c", 3}});
  auto index = [&](const std::string& map) {
    write("model.safetensors.index.json", "{\"metadata\":{},\"weight_map\":{" + map + "}}");
  };
  const std::string a = R"("a":"s1.safetensors")", b = R"("b":"s1.safetensors")",
                    c = R"("c":"s2.safetensors")";
  index(a + "," + b + "," + c);
  const CheckpointReader reader = CheckpointReader::open(folder_);
  EXPECT_EQ(reader.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(reader.total_bytes(), 12u);
  EXPECT_EQ(reader.file_of("c").path().filename(), "s2.safetensors");
  float value = 0;
  read_as_float(reader.at("c"), 0, std::span(&value, 1));
  EXPECT_EQ(value, 3);
  try {
    reader.at("bb");
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("nearest is \"b\""), std::string::npos) << e.what();
  }
  index(a + "," + c);
  EXPECT_NE(open_error().find("b in s1.safetensors"), std::string::npos) << open_error();
  index(a + "," + b + "," + c + R"(,"d":"s2.safetensors")");
  EXPECT_NE(open_error().find("d in s2.safetensors"), std::string::npos) << open_error();
  index(a + "," + b + "," + c + R"(,"d":"s3.safetensors")");
  EXPECT_NE(open_error().find("s3.safetensors"), std::string::npos) << open_error();
  for (const char* bad : {"../s2.safetensors", "/etc/passwd", "..", ".", "", "x/s2.safetensors",
                          "x\\\\y", "s2\\u0000"}) {
    index(a + "," + b + ",\"c\":\"" + bad + "\"");
    EXPECT_NE(open_error().find("plain name"), std::string::npos) << bad << open_error();
  }
  index(a + "," + b + ",\"c\":3");
  EXPECT_NE(open_error().find("plain name"), std::string::npos);
  index("");
  EXPECT_NE(open_error().find("weight_map"), std::string::npos);
  // The way a cache of downloads lays out its files.
  fs::create_directories(folder_ / "blobs");
  fs::rename(folder_ / "s2.safetensors", folder_ / "blobs/abc");
  fs::create_symlink("blobs/abc", folder_ / "s2.safetensors");
  index(a + "," + b + "," + c);
  EXPECT_EQ(open_error(), "");
}

TEST_F(Files, NoWeights) {
  EXPECT_NE(open_error().find("neither"), std::string::npos);
  write("pytorch_model.bin", "x");
  EXPECT_NE(open_error().find("convert it to safetensors"), std::string::npos);
  folder_ /= "absent";
  EXPECT_NE(open_error().find("not a folder"), std::string::npos);
}

TEST_F(Files, ModelWriterShards) {
  write("model.safetensors", "an older layout");
  std::vector<TensorDecl> decls;
  for (int i = 0; i < 5; ++i) decls.push_back({fmt::format("t{}", i), FileType::f32, {10}});
  {
    ModelWriter writer(folder_, decls, 100);
    for (int i = 0; i < 5; ++i) {
      const std::vector<float> values(10, static_cast<float>(i));
      writer.write(decls[static_cast<size_t>(i)].name, std::as_bytes(std::span(values)));
    }
    EXPECT_EQ(read("model.safetensors"), "an older layout");
    writer.finish();
  }
  EXPECT_EQ(listing(), (std::vector<std::string>{
                           "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                           "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  const CheckpointReader reader = CheckpointReader::open(folder_);
  std::vector<float> values(10);
  for (int i = 0; i < 5; ++i) {
    read_as_float(reader.at(fmt::format("t{}", i)), 0, values);
    EXPECT_EQ(values[9], static_cast<float>(i));
  }
  ModelWriter single(folder_, {{"only", FileType::u8, {2}}});
  single.write("only", bytes_of("ab"));
  single.finish();
  EXPECT_EQ(listing(), std::vector<std::string>{"model.safetensors"});
}

TEST(NonFinite, EveryTypeAndPlace) {
  ThreadPool pool(2);
  auto check = [](FileType type, std::vector<uint64_t> bad, std::vector<uint64_t> good) {
    const size_t size = file_type_size(type);
    for (const int64_t count : {1, 3, 7, 8, 9, 40000}) {
      std::vector<std::byte> data(static_cast<size_t>(count) * size);
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(&data[static_cast<size_t>(i) * size],
                    &good[static_cast<size_t>(i) % good.size()], size);
      }
      TensorEntry entry;
      entry.type = type;
      entry.bytes = data.size();
      entry.data = data.data();
      EXPECT_FALSE(find_nonfinite(entry).has_value()) << file_type_name(type);
      for (const uint64_t value : bad) {
        for (const int64_t at : {int64_t{0}, count / 2, count - 1}) {
          std::vector<std::byte> broken = data;
          std::memcpy(&broken[static_cast<size_t>(at) * size], &value, size);
          entry.data = broken.data();
          const auto found = find_nonfinite(entry);
          ASSERT_TRUE(found.has_value()) << file_type_name(type) << " " << value << " at " << at;
          EXPECT_EQ(found->first, at);
          EXPECT_EQ(found->count, 1);
          EXPECT_FALSE(type != FileType::f8_e4m3 && std::isfinite(found->value));
        }
      }
    }
  };
  check(FileType::f32, {0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001},
        {0, 0x7f7fffff, 0xff7fffff, 1});
  check(FileType::bf16, {0x7f80, 0xff80, 0x7fc0, 0xffff}, {0, 0x7f7f, 0xff7f, 0x8000});
  check(FileType::f16, {0x7c00, 0xfc00, 0x7e00}, {0, 0x7bff, 0xfbff, 0x8000});
  check(FileType::f64, {0x7ff0000000000000, 0xfff0000000000001}, {0, 0x7fefffffffffffff});
  check(FileType::f8_e4m3, {0x7f, 0xff}, {0x7e, 0xfe, 0x80});
  check(FileType::f8_e5m2, {0x7c, 0xfd, 0x7f}, {0x7b, 0xfb, 0x80});
  TensorEntry integers;
  integers.type = FileType::i32;
  const int32_t all = 0x7fc00000;
  integers.bytes = 4;
  integers.data = reinterpret_cast<const std::byte*>(&all);
  EXPECT_FALSE(find_nonfinite(integers).has_value());
}

TEST_F(Files, CheckFiniteNamesTheTensor) {
  ThreadPool pool(2);
  write_floats("model.safetensors", {{"a", 1}, {"b", 2}});
  check_finite(CheckpointReader::open(folder_), pool);
  write_floats("model.safetensors", {{"a", 1}, {"b", std::numeric_limits<float>::infinity()}});
  try {
    check_finite(CheckpointReader::open(folder_), pool);
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("tensor b holds 1"), std::string::npos) << e.what();
  }
}

TEST(ContentHashTest, PiecesAndChanges) {
  std::string text(1000, 'a');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 31);
  const uint64_t whole = content_hash(bytes_of(text));
  for (const size_t cut : {0, 1, 31, 32, 33, 500, 999, 1000}) {
    ContentHash hash;
    hash.update(bytes_of(text).first(cut));
    hash.update(bytes_of(text).subspan(cut));
    EXPECT_EQ(hash.value(), whole);
  }
  for (size_t i = 0; i < text.size(); ++i) {
    for (const int bit : {0, 7}) {
      std::string changed = text;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      EXPECT_NE(content_hash(bytes_of(changed)), whole);
    }
  }
  EXPECT_NE(content_hash(bytes_of(text + '\0')), whole);
}

TEST(SafetensorsAssets, Stories260k) {
  const fs::path folder = fs::path(HONE_SOURCE_DIR) / "../shared/assets/model-stories260k";
  if (!fs::exists(folder / "model.safetensors")) GTEST_SKIP() << "needs ../shared/assets";
  const CheckpointReader reader = CheckpointReader::open(folder);
  EXPECT_EQ(reader.at("model.embed_tokens.weight").shape, (std::vector<int64_t>{512, 64}));
  ThreadPool pool(2);
  check_finite(reader, pool);
}

}  // namespace
}  // namespace hone::io
