// Training checkpoints: they read back bit for bit, damage is found, and a kill at any moment
// leaves a good one.
#include "io/checkpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "core/error.h"

namespace hone::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Checkpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              fmt::format("hone_checkpoint_{}_{}", getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // A parameter, its two moments and a counter, all filled from the step.
  static fs::path save(const fs::path& folder, int64_t step, int limit = 0, int64_t rows = 6) {
    const std::vector<float> p(static_cast<size_t>(rows * 4), static_cast<float>(step) + 0.25f);
    const std::vector<float> m(static_cast<size_t>(rows * 4), static_cast<float>(step) + 0.5f);
    const std::vector<double> v = {static_cast<double>(step)};
    const std::vector<StateTensor> tensors = {
        {"w", "param", FileType::f32, {rows, 4}, std::as_bytes(std::span(p))},
        {"w", "exp_avg", FileType::f32, {rows, 4}, std::as_bytes(std::span(m))},
        {"b", "param", FileType::f64, {}, std::as_bytes(std::span(v))},
    };
    return write_checkpoint(folder, step, tensors, {{"seed", 7}, {"step", step}, {"lr", 0.1}},
                            {.save_total_limit = limit});
  }
  // Whether the content is that of its step, whole.
  static void check(const TrainingCheckpoint& checkpoint, int64_t rows = 6) {
    const int64_t step = checkpoint.step();
    EXPECT_EQ(checkpoint.state()["step"], step);
    std::vector<float> p(static_cast<size_t>(rows * 4));
    const std::vector<int64_t> shape = {rows, 4};
    checkpoint.read("w", "param", FileType::f32, shape, std::as_writable_bytes(std::span(p)));
    for (const float value : p) ASSERT_EQ(value, static_cast<float>(step) + 0.25f);
    checkpoint.read("w", "exp_avg", FileType::f32, shape, std::as_writable_bytes(std::span(p)));
    for (const float value : p) ASSERT_EQ(value, static_cast<float>(step) + 0.5f);
  }
  std::vector<std::string> listing() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  static void flip_byte(const fs::path& path, int64_t offset_from_end) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-offset_from_end, std::ios::end);
    const char c = static_cast<char>(file.get() ^ 1);
    file.seekp(-offset_from_end, std::ios::end);
    file.put(c);
  }
  static std::string open_error(const fs::path& path) {
    try {
      TrainingCheckpoint::open(path);
    } catch (const UserError& e) {
      return e.what();
    }
    return "";
  }
  fs::path folder_;
};

TEST_F(Checkpoint, ReadsBackBitForBit) {
  const fs::path path = save(folder_, 12);
  EXPECT_EQ(path.filename(), "step-12");
  const TrainingCheckpoint checkpoint = TrainingCheckpoint::open(path);
  check(checkpoint);
  EXPECT_EQ(checkpoint.tensors().size(), 3u);
  EXPECT_TRUE(checkpoint.has("w", "exp_avg"));
  EXPECT_FALSE(checkpoint.has("w", "exp_avg_sq"));
  EXPECT_EQ(checkpoint.state()["lr"].get<double>(), 0.1);
  double b = 0;
  checkpoint.read("b", "param", FileType::f64, {}, std::as_writable_bytes(std::span(&b, 1)));
  EXPECT_EQ(b, 12);
  std::vector<float> out(24);
  const auto bytes = std::as_writable_bytes(std::span(out));
  const std::vector<int64_t> shape = {6, 4}, other = {4, 6};
  EXPECT_THROW(checkpoint.read("w", "exp_avg_sq", FileType::f32, shape, bytes), UserError);
  EXPECT_THROW(checkpoint.read("w", "param", FileType::f32, other, bytes), UserError);
  EXPECT_THROW(checkpoint.read("w", "param", FileType::i32, shape, bytes), UserError);
  EXPECT_THROW(checkpoint.read("z", "param", FileType::f32, shape, bytes), UserError);
}

// Values lie in a file for others, under their plain names, with what they need beside it.
TEST_F(Checkpoint, AFileForOthersHoldsTheValues) {
  const std::vector<float> w = {1, 2, 3, 4}, m = {5, 6, 7, 8}, frozen = {9, 10};
  const std::vector<StateTensor> tensors = {
      {"w", "master", FileType::f32, {2, 2}, std::as_bytes(std::span(w)), "model.safetensors"},
      {"w", "exp_avg", FileType::f32, {2, 2}, std::as_bytes(std::span(m))},
      {"f", "", FileType::f32, {2}, std::as_bytes(std::span(frozen)), "model.safetensors"},
  };
  const fs::path path = write_checkpoint(
      folder_, 3, tensors, json::object(),
      {.write_more = [](const fs::path& to) { std::ofstream(to / "config.json") << "{}"; }});
  EXPECT_TRUE(fs::exists(path / "config.json"));
  const auto file = SafetensorsFile::open(path / "model.safetensors");
  ASSERT_EQ(file.tensors().size(), 2u);
  std::vector<float> values(4), two(2);
  read_as_float(file.at("w"), 0, values);
  EXPECT_EQ(values, w);
  read_as_float(file.at("f"), 0, two);
  EXPECT_EQ(two, frozen);
  const TrainingCheckpoint checkpoint = TrainingCheckpoint::open(path);
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  const std::vector<int64_t> shape = {2, 2};
  checkpoint.read("w", "master", FileType::f32, shape, std::as_writable_bytes(std::span(values)));
  EXPECT_EQ(values, w);
  checkpoint.read("w", "exp_avg", FileType::f32, shape, std::as_writable_bytes(std::span(values)));
  EXPECT_EQ(values, m);
  flip_byte(path / "model.safetensors", 3);
  EXPECT_NE(open_error(path).find("model.safetensors"), std::string::npos);
}

TEST_F(Checkpoint, HintsNameTheNewest) {
  EXPECT_EQ(checkpoint_hint(folder_), "");
  save(folder_ / "checkpoints", 5);
  save(folder_ / "checkpoints", 10);
  const std::string newest = (folder_ / "checkpoints/step-10").string();
  EXPECT_NE(checkpoint_hint(folder_).find("isn't finished, use its newest checkpoint: " + newest),
            std::string::npos);
  EXPECT_NE(checkpoint_hint(folder_ / "checkpoints").find("the newest is " + newest),
            std::string::npos);
}

TEST_F(Checkpoint, LimitKeepsTheNewest) {
  EXPECT_FALSE(latest_checkpoint(folder_).has_value());
  for (const int step : {5, 10, 15, 100}) save(folder_, step, 2);
  EXPECT_EQ(listing(), (std::vector<std::string>{"step-100", "step-15"}));
  EXPECT_EQ(list_checkpoints(folder_), (std::vector<int64_t>{15, 100}));
  EXPECT_EQ(latest_checkpoint(folder_)->filename(), "step-100");
  // Going on from 15: what came after belongs to another history.
  discard_checkpoints_after(folder_, 15);
  EXPECT_EQ(listing(), std::vector<std::string>{"step-15"});
  save(folder_, 20, 1);
  EXPECT_EQ(listing(), std::vector<std::string>{"step-20"});
}

TEST_F(Checkpoint, SameStepIsReplaced) {
  save(folder_, 5, 0, 6);
  save(folder_, 5, 0, 9);
  EXPECT_EQ(listing(), std::vector<std::string>{"step-5"});
  check(TrainingCheckpoint::open(folder_ / "step-5"), 9);
}

TEST_F(Checkpoint, EveryDamageIsFoundAndAnOlderOneTaken) {
  save(folder_, 1);
  const fs::path path = save(folder_, 2);
  const fs::path payload = path / "state.safetensors", manifest = path / "manifest.json";
  auto damaged = [&](const char* what, auto&& damage) {
    save(folder_, 2);
    EXPECT_EQ(open_error(path), "");
    damage();
    EXPECT_NE(open_error(path), "") << what;
    std::vector<std::string> skipped;
    const auto taken = open_latest_checkpoint(folder_, &skipped);
    ASSERT_TRUE(taken.has_value()) << what;
    EXPECT_EQ(taken->step(), 1) << what;
    EXPECT_EQ(skipped.size(), 1u) << what;
    check(*taken);
  };
  damaged("a flipped bit of data", [&] { flip_byte(payload, 1); });
  damaged("a flipped bit of the header",
          [&] { flip_byte(payload, static_cast<int64_t>(fs::file_size(payload)) - 20); });
  damaged("a truncated payload", [&] { fs::resize_file(payload, fs::file_size(payload) - 1); });
  damaged("an empty payload", [&] { fs::resize_file(payload, 0); });
  damaged("no payload", [&] { fs::remove(payload); });
  damaged("no manifest", [&] { fs::remove(manifest); });
  damaged("an empty manifest", [&] { fs::resize_file(manifest, 0); });
  damaged("a truncated manifest", [&] { fs::resize_file(manifest, fs::file_size(manifest) / 2); });
  const int64_t size = static_cast<int64_t>(fs::file_size(manifest));
  for (int64_t at = 3; at < size; at += 41) {
    save(folder_, 2);
    flip_byte(manifest, at);
    // Spaces between values carry nothing; all else must be noticed.
    std::ifstream in(manifest);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    json now = json::parse(text, nullptr, false);
    save(folder_, 2);
    std::ifstream whole(manifest);
    const json before = json::parse(whole);
    if (now == before) continue;
    flip_byte(manifest, at);
    EXPECT_NE(open_error(path), "") << at;
  }
}

TEST_F(Checkpoint, FullDiskKeepsTheOldOne) {
  save(folder_, 1);
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 1 << 16;
  setrlimit(RLIMIT_FSIZE, &small);
  std::string error;
  try {
    save(folder_, 2, 1, 1 << 16);
  } catch (const RuntimeError& e) {
    error = e.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_NE(error.find("state.safetensors"), std::string::npos) << error;
  EXPECT_EQ(listing(), std::vector<std::string>{"step-1"});
  check(TrainingCheckpoint::open(folder_ / "step-1"));
}

// A process that saves without end is killed at many moments; what it leaves must always be whole,
// and never older than what it had reported as saved.
TEST_F(Checkpoint, KilledAtAnyMoment) {
  constexpr int64_t kRows = 3000;
  int64_t last = 0;
  for (int round = 0; round < 40; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      for (int64_t step = last + 1;; ++step) {
        save(folder_, step, 2, kRows);
        if (write(pipe_ends[1], &step, sizeof step) != sizeof step) _exit(1);
      }
    }
    close(pipe_ends[1]);
    int64_t reported = last, step = 0;
    // Every other round lets one save be finished first, so that there is progress however slow the
    // machine is.
    if (round % 2 == 1) {
      ASSERT_EQ(read(pipe_ends[0], &step, sizeof step), static_cast<ssize_t>(sizeof step));
      reported = step;
    }
    usleep(static_cast<useconds_t>((round * 7919) % 30011));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status));
    while (read(pipe_ends[0], &step, sizeof step) == sizeof step) reported = step;
    close(pipe_ends[0]);
    const auto opened = open_latest_checkpoint(folder_);
    if (reported == 0 && !opened) continue;
    ASSERT_TRUE(opened.has_value()) << round;
    EXPECT_GE(opened->step(), reported);
    EXPECT_LE(opened->step(), reported + 1);
    check(*opened, kRows);
    last = opened->step();
  }
  EXPECT_GE(last, 20);  // one a round of the second kind
  save(folder_, last + 1, 2, kRows);
  EXPECT_EQ(listing().size(), 2u);  // and left nothing behind
}

// A manifest of several pieces, as several ranks would write it: rows 0-3 in one file, the rest cut
// by columns in another.
TEST_F(Checkpoint, PiecesAreAssembled) {
  save(folder_, 3);
  const fs::path path = folder_ / "step-3";
  std::vector<float> whole(24);
  for (size_t i = 0; i < whole.size(); ++i) whole[i] = static_cast<float>(i);
  auto write = [&](const char* file,
                   std::vector<std::pair<const char*, std::array<int, 4>>> parts) {
    std::vector<TensorDecl> decls;
    for (const auto& [key, p] : parts) decls.push_back({key, FileType::f32, {p[2], p[3]}});
    SafetensorsWriter writer(path / file, decls);
    for (const auto& [key, p] : parts) {
      std::vector<float> values;
      for (int i = p[0]; i < p[0] + p[2]; ++i) {
        for (int j = p[1]; j < p[1] + p[3]; ++j)
          values.push_back(whole[static_cast<size_t>(i * 4 + j)]);
      }
      writer.write(key, std::as_bytes(std::span(values)));
    }
    writer.finish();
    const MappedFile map(path / file);
    return json{{"name", file},
                {"bytes", map.size()},
                {"hash", fmt::format("{:016x}", content_hash(map.bytes()))}};
  };
  json manifest = {
      {"format", "hone-checkpoint"}, {"version", 1}, {"step", 3}, {"state", {{"step", 3}}}};
  manifest["files"] = {write("r0.safetensors", {{"top", {0, 0, 4, 4}}}),
                       write("r1.safetensors", {{"left", {4, 0, 2, 1}}, {"right", {4, 1, 2, 3}}})};
  auto piece = [](const char* file, const char* key, json offset, json shape) {
    return json{{"file", file}, {"key", key}, {"offset", offset}, {"shape", shape}};
  };
  manifest["tensors"] = {{{"parameter", "w"},
                          {"kind", "param"},
                          {"dtype", "F32"},
                          {"shape", {6, 4}},
                          {"pieces",
                           {piece("r0.safetensors", "top", {0, 0}, {4, 4}),
                            piece("r1.safetensors", "right", {4, 1}, {2, 3}),
                            piece("r1.safetensors", "left", {4, 0}, {2, 1})}}}};
  const std::string compact = manifest.dump();
  manifest["check"] = fmt::format(
      "{:016x}", content_hash(std::as_bytes(std::span(compact.data(), compact.size()))));
  std::ofstream(path / "manifest.json") << manifest.dump();
  const TrainingCheckpoint checkpoint = TrainingCheckpoint::open(path);
  std::vector<float> out(24);
  const std::vector<int64_t> shape = {6, 4};
  checkpoint.read("w", "param", FileType::f32, shape, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(out, whole);
}

json small_manifest() {
  return {{"format", "hone-checkpoint"},
          {"version", 1},
          {"step", 1},
          {"state", json::object()},
          {"files", {{{"name", "f"}, {"bytes", 8}, {"hash", "0123456789abcdef"}}}},
          {"tensors",
           {{{"parameter", "w"},
             {"kind", "param"},
             {"dtype", "F32"},
             {"shape", {4}},
             {"pieces",
              {{{"file", "f"}, {"key", "a"}, {"offset", {0}}, {"shape", {2}}},
               {{"file", "f"}, {"key", "b"}, {"offset", {2}}, {"shape", {2}}}}}}}}};
}

TEST(Manifest, WrongOnesAreRefused) {
  EXPECT_EQ(parse_manifest(small_manifest().dump(), "m").tensors[0].pieces.size(), 2u);
  auto error = [](const char* pointer, json value) {
    json manifest = small_manifest();
    manifest[json::json_pointer(pointer)] = std::move(value);
    try {
      parse_manifest(manifest.dump(), "m");
    } catch (const UserError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(error("/format", "other").find("format"), std::string::npos);
  EXPECT_NE(error("/version", 2).find("version"), std::string::npos);
  EXPECT_NE(error("/step", -1).find("step"), std::string::npos);
  EXPECT_NE(error("/state", 1).find("state"), std::string::npos);
  EXPECT_NE(error("/files", 1).find("files"), std::string::npos);
  EXPECT_NE(error("/files/0", 1).find("files"), std::string::npos);
  EXPECT_NE(error("/files/0/hash", "xyz").find("hash"), std::string::npos);
  for (const char* name : {"../f", "", ".", "..", "a/b", ".tmp"}) {
    EXPECT_NE(error("/files/0/name", name).find("plain name"), std::string::npos) << name;
  }
  EXPECT_NE(error("/tensors/0/dtype", "F33").find("dtype"), std::string::npos);
  EXPECT_NE(error("/tensors/0/shape", {5}).find("tile"), std::string::npos);
  EXPECT_NE(error("/tensors/0/shape", {1 << 30, 1 << 30}).find("overflows"), std::string::npos);
  EXPECT_NE(error("/tensors/0/shape", {2, 2}).find("not inside"), std::string::npos);
  EXPECT_NE(error("/tensors/0/pieces/1/offset", {1}).find("tile"), std::string::npos);
  EXPECT_NE(error("/tensors/0/pieces/1/offset", {3}).find("not inside"), std::string::npos);
  EXPECT_NE(error("/tensors/0/pieces/1/shape", {1}).find("tile"), std::string::npos);
  EXPECT_NE(error("/tensors/0/pieces/1/file", "g").find("not among"), std::string::npos);
  EXPECT_NE(error("/tensors/0/pieces", json::array()).find("pieces"), std::string::npos);
  json twice = small_manifest();
  twice["tensors"].push_back(twice["tensors"][0]);
  EXPECT_THROW(parse_manifest(twice.dump(), "m"), UserError);
}

}  // namespace
}  // namespace hone::io
