// Event files: checksums as published, records framed as TensorBoard reads them. That TensorBoard
// itself reads them is checked by tools/make_io_fixtures.py --events.
#include "io/tensorboard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/error.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;

// Vectors of RFC 3720, B.4.
TEST(Crc32c, PublishedVectors) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string up, down;
  for (int i = 0; i < 32; ++i) {
    up += static_cast<char>(i);
    down += static_cast<char>(31 - i);
  }
  EXPECT_EQ(crc32c(up), 0x46dd794eu);
  EXPECT_EQ(crc32c(down), 0x113fdb5cu);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
}

class Events : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              fmt::format("hone_events_{}_{}", getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
  }
  void TearDown() override { fs::remove_all(folder_); }
  // The payloads of a file, with every length and checksum verified.
  static std::vector<std::string> records(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    std::vector<std::string> result;
    size_t at = 0;
    while (at < text.size()) {
      uint64_t length = 0;
      uint32_t length_crc = 0, payload_crc = 0;
      if (text.size() - at < 16) ADD_FAILURE() << "torn record";
      std::memcpy(&length, &text[at], 8);
      std::memcpy(&length_crc, &text[at + 8], 4);
      EXPECT_EQ(length_crc, masked_crc32c(text.substr(at, 8)));
      result.push_back(text.substr(at + 12, length));
      std::memcpy(&payload_crc, &text[at + 12 + length], 4);
      EXPECT_EQ(payload_crc, masked_crc32c(result.back()));
      at += 16 + length;
    }
    return result;
  }
  fs::path folder_;
};

TEST_F(Events, RecordsAreFramed) {
  EventWriter writer(folder_);
  writer.scalar("loss", 0.5, 3);
  writer.text("answers", "two\nlines \xff and \xe2\x82\xac", 4);
  writer.flush();
  EXPECT_TRUE(writer.path().filename().string().starts_with("events.out.tfevents."));
  const std::vector<std::string> found = records(writer.path());
  ASSERT_EQ(found.size(), 3u);
  EXPECT_NE(found[0].find("brain.Event:2"), std::string::npos);
  // step 3; summary; value: tag "loss", simple_value 0.5
  EXPECT_NE(
      found[1].find(std::string("\x10\x03\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f", 17)),
      std::string::npos);
  EXPECT_NE(found[2].find("two\nlines \xef\xbf\xbd and \xe2\x82\xac"), std::string::npos);
  EXPECT_NE(found[2].find("text"), std::string::npos);
}

TEST_F(Events, TwoWritersTwoFilesAndResume) {
  EventWriter a(folder_), b(folder_, 7);
  EXPECT_NE(a.path(), b.path());
  EXPECT_EQ(records(a.path()).size(), 1u);
  const std::vector<std::string> found = records(b.path());
  ASSERT_EQ(found.size(), 2u);
  // step 7; session log: START
  EXPECT_NE(found[1].find(std::string("\x10\x07\x3a\x02\x08\x01", 6)), std::string::npos);
}

TEST_F(Events, FolderThatCannotBeMade) {
  fs::create_directories(folder_);
  std::ofstream(folder_ / "file") << "x";
  EXPECT_THROW(EventWriter(folder_ / "file"), RuntimeError);
  EXPECT_THROW(EventWriter(folder_ / "file/below"), RuntimeError);
}

}  // namespace
}  // namespace hone::io
