// Run folders: never two runs in one, never a lost file, a log that can be cut back.
#include "io/run_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "io/files.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Run : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              fmt::format("hone_run_{}_{}", getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  void write(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  std::string read(const fs::path& path) { return read_text_file(path, 1 << 20); }
  std::string open_error(ExistingRun existing) {
    try {
      RunFolder::open(folder_, existing);
    } catch (const UserError& e) {
      return e.what();
    }
    return "";
  }
  fs::path folder_;
};

TEST_F(Run, NewFolderThenRefusedThenResumedThenOverwritten) {
  {
    const RunFolder run = RunFolder::open(folder_ / "deep/er", ExistingRun::refuse);
    EXPECT_FALSE(run.held_a_run());
    EXPECT_FALSE(run.load_config().has_value());
    run.save_config({{"lr", 0.5}, {"path", "b\xff"}});
    EXPECT_EQ((*run.load_config())["lr"], 0.5);
  }
  folder_ /= "deep/er";
  write(folder_ / "metrics.jsonl", "{\"step\":1}\n");
  write(folder_ / "adapter_model.safetensors", "x");
  write(folder_ / "checkpoints/step-5/manifest.json", "x");
  write(folder_ / "notes.txt", "mine");
  EXPECT_NE(open_error(ExistingRun::refuse).find("already holds a run"), std::string::npos);
  EXPECT_TRUE(fs::exists(folder_ / "adapter_model.safetensors"));
  {
    const RunFolder run = RunFolder::open(folder_, ExistingRun::resume);
    EXPECT_TRUE(run.held_a_run());
    EXPECT_TRUE(fs::exists(folder_ / "checkpoints/step-5/manifest.json"));
  }
  const RunFolder run = RunFolder::open(folder_, ExistingRun::overwrite);
  EXPECT_FALSE(run.held_a_run());
  for (const char* gone :
       {"metrics.jsonl", "adapter_model.safetensors", "checkpoints/step-5", "run.json"}) {
    EXPECT_FALSE(fs::exists(folder_ / gone)) << gone;
  }
  EXPECT_TRUE(fs::is_directory(run.checkpoints()));
  EXPECT_EQ(read(folder_ / "notes.txt"), "mine");
  folder_ = folder_.parent_path().parent_path();
}

TEST_F(Run, AModelIsNeverOverwritten) {
  write(folder_ / "model.safetensors", "weights");
  for (const ExistingRun existing :
       {ExistingRun::refuse, ExistingRun::resume, ExistingRun::overwrite}) {
    EXPECT_NE(open_error(existing).find("model.safetensors"), std::string::npos);
  }
  EXPECT_EQ(read(folder_ / "model.safetensors"), "weights");
}

TEST_F(Run, OneWriterAtATime) {
  {
    const RunFolder run = RunFolder::open(folder_, ExistingRun::refuse);
    EXPECT_NE(open_error(ExistingRun::resume).find("another process"), std::string::npos);
    // The folder stays locked against other processes too.
    const pid_t child = fork();
    if (child == 0)
      _exit(open_error(ExistingRun::overwrite).find("another process") != std::string::npos ? 0
                                                                                            : 1);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
  EXPECT_EQ(open_error(ExistingRun::resume), "");
}

TEST_F(Run, BadPaths) {
  write(folder_ / "file", "x");
  folder_ /= "file";
  EXPECT_NE(open_error(ExistingRun::refuse).find("is a file"), std::string::npos);
  EXPECT_THROW(RunFolder::open("", ExistingRun::refuse), UserError);
  EXPECT_THROW(RunFolder::open(folder_ / "below", ExistingRun::refuse), RuntimeError);
  folder_ = folder_.parent_path();
}

TEST_F(Run, MetricsAppendAndCutBack) {
  const fs::path path = folder_ / "metrics.jsonl";
  EXPECT_EQ(MetricsLog::cut_back(path, 3), 0);  // nothing there
  fs::create_directories(folder_);
  {
    MetricsLog log(path);
    for (int step = 1; step <= 5; ++step) log.append({{"step", step}, {"loss", 1.0 / step}});
    log.sync();
  }
  {
    MetricsLog log(path);  // goes on where the file ends
    log.append({{"step", 6}});
    EXPECT_THROW(log.append({{"loss", 1}}), InternalError);
  }
  const std::string whole = read(path);
  // Killed in the middle of a line, and a line that is not JSON.
  write(path, whole + "{\"step\":7,\"lo");
  EXPECT_EQ(MetricsLog::cut_back(path, 100), 6);
  EXPECT_EQ(read(path), whole);
  EXPECT_EQ(MetricsLog::cut_back(path, 4), 4);
  EXPECT_EQ(read(path), whole.substr(0, read(path).size()));
  EXPECT_EQ(MetricsLog::cut_back(path, 0), 0);
  EXPECT_EQ(read(path), "");
}

TEST_F(Run, ModelFilesAreCopied) {
  const fs::path from = folder_ / "from", to = folder_ / "to";
  for (const char* name :
       {"tokenizer.json", "config.json", "chat_template.jinja", "model.safetensors",
        "additional_chat_templates/tool.jinja", "generation_config.json"}) {
    write(from / name, name);
  }
  write(to / "tokenizer.json", "old");
  EXPECT_EQ(
      copy_model_files(from, to),
      (std::vector<std::string>{"tokenizer.json", "chat_template.jinja", "generation_config.json",
                                "config.json", "additional_chat_templates/tool.jinja"}));
  EXPECT_EQ(read(to / "tokenizer.json"), "tokenizer.json");
  EXPECT_FALSE(fs::exists(to / "model.safetensors"));
  EXPECT_TRUE(copy_model_files(from, from).empty());
  EXPECT_EQ(copy_model_files(from, folder_ / "other", false).size(), 4u);
}

TEST_F(Run, AtomicWriteReplacesWhole) {
  fs::create_directories(folder_);
  write_file_atomically(folder_ / "a", "one");
  write_file_atomically(folder_ / "a", "two");
  EXPECT_EQ(read(folder_ / "a"), "two");
  {
    AtomicFile file(folder_ / "a");
    file.append("three");
  }
  EXPECT_EQ(read(folder_ / "a"), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
  EXPECT_THROW(read_text_file(folder_ / "a", 2), UserError);
  EXPECT_THROW(read_text_file(folder_ / "b", 2), UserError);
  EXPECT_THROW(read_text_file(folder_, 2), UserError);
  EXPECT_THROW(MappedFile{folder_}, UserError);
}

}  // namespace
}  // namespace hone::io
