// hone convert: numbers, names and configs of what it writes, and what is left of one that was
// killed.
#include "robust_util.h"
#include "support/small_model.h"

namespace hone {
namespace {

namespace fs = std::filesystem;
using data_test::TempFolder;
using robust::operator+;
using robust::Ended;
using robust::read_file;
using robust::run;
using test::compute;
using test::Json;
using test::Results;
using test::SmallModel;

Ended convert(const fs::path& from, const std::string& to, const std::string& format,
              const std::vector<std::string>& more = {}) {
  std::vector<std::string> args = {"convert", "--pretrained", from.string(), "--output", to,
                                   "--to",    format,         "--threads",   "2"};
  args.insert(args.end(), more.begin(), more.end());
  return run(args);
}

Json config_of(const std::string& folder) {
  return Json::parse(read_file(folder + "/config.json"));
}

TEST(Convert, Fp8ToBf16IsTheSameModel) {
  const TempFolder work;
  const SmallModel fp8(true), plain(false);
  const std::string out = work / "bf16";
  const Ended done = convert(fp8.path(), out, "bf16");
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_FALSE(config_of(out).contains("quantization_config"));
  EXPECT_EQ(config_of(out)["torch_dtype"], "bfloat16");
  const io::CheckpointReader a = io::CheckpointReader::open(out),
                             b = io::CheckpointReader::open(plain.path());
  EXPECT_EQ(a.names(), b.names());
  for (const std::string& name : a.names()) {
    const io::TensorEntry &x = a.at(name), &y = b.at(name);
    ASSERT_EQ(x.shape, y.shape);
    EXPECT_EQ(x.type, y.type);
    EXPECT_EQ(std::memcmp(x.data, y.data, x.bytes), 0) << name;
  }
}

TEST(Convert, ToFp8KeepsWhatIsNoLinearLayerByteForByte) {
  const TempFolder work;
  const SmallModel plain(false);
  const std::string out = work / "fp8";
  const Ended done = convert(plain.path(), out, "fp8");
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.err.find("24 tensors"), std::string::npos) << done.err;
  EXPECT_NE(done.err.find("14 of them in fp8"), std::string::npos) << done.err;
  const Json q = config_of(out)["quantization_config"];
  EXPECT_EQ(q["quant_method"], "fp8");
  EXPECT_EQ(q["weight_block_size"], Json({128, 128}));
  EXPECT_EQ(q["modules_to_not_convert"], Json({"model.embed_tokens"}));
  const io::CheckpointReader a = io::CheckpointReader::open(out),
                             b = io::CheckpointReader::open(plain.path());
  for (const std::string& name : b.names()) {
    const io::TensorEntry &x = a.at(name), &y = b.at(name);
    if (a.find(name + "_scale_inv") != nullptr) {
      EXPECT_EQ(x.type, io::FileType::f8_e4m3);
      continue;
    }
    EXPECT_EQ(x.type, y.type) << name;
    EXPECT_EQ(std::memcmp(x.data, y.data, x.bytes), 0) << name;
  }
  // half a step of E4M3 is 1/16 of a number at most
  std::vector<float> x(320 * 192), y(x.size());
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  load::read_numbers(load::with_scales(a, a.at(name)), 0, x);
  load::read_numbers(load::with_scales(b, b.at(name)), 0, y);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i)
    worst = std::max(
        worst, std::fabs(double{x[i]} - double{y[i]}) / std::max(std::fabs(double{y[i]}), 1e-3));
  EXPECT_LE(worst, 1.0 / 16);
  // and it runs, near what it was
  const Results quantised = compute(out, DType::bf16), before = compute(plain.path(), DType::bf16);
  EXPECT_NEAR(quantised.loss, before.loss, 0.05);
}

TEST(Convert, OneThatWasKilledIsGoneOnWith) {
  const TempFolder work;
  const SmallModel plain(false, {}, true, 24);
  const std::vector<std::string> small = {"--max_shard_size", "300KB"};
  const std::string whole = work / "whole", killed = work / "killed";
  ASSERT_EQ(convert(plain.path(), whole, "fp8", small).code, 0);
  const auto shards = [](const std::string& folder) {
    int n = 0;
    std::error_code code;
    for (const auto& entry : fs::directory_iterator(folder, code))
      n += entry.path().filename().string().starts_with("model-0");
    return n;
  };
  const int all = shards(whole);
  ASSERT_GT(all, 20);
  bool stopped = false;
  for (int i = 0; i < 20 && !stopped; ++i) {
    fs::remove_all(killed);
    robust::Process process({"convert", "--pretrained", plain.path(), "--output", killed, "--to",
                             "fp8", "--max_shard_size", "300KB"});
    while (process.running() && shards(killed) < 2 + i % 5)
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    process.send(SIGKILL);
    process.wait();
    stopped = fs::exists(killed + "/.convert.json") && shards(killed) > 0;
  }
  ASSERT_TRUE(stopped);
  const std::string first =
      killed + "/" +
      fs::path(killed + "/model-00001-of-000" + std::to_string(all) + ".safetensors")
          .filename()
          .string();
  ASSERT_TRUE(fs::exists(first)) << first;
  const auto kept = fs::last_write_time(first);
  // another target isn't mixed with what is there
  const Ended other = convert(plain.path(), killed, "bf16", small);
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("to another format, which was stopped"), std::string::npos) << other.err;
  const Ended done = convert(plain.path(), killed, "fp8", small);
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.err.find("going on with"), std::string::npos) << done.err;
  EXPECT_EQ(fs::last_write_time(first), kept);
  for (const auto& entry : fs::directory_iterator(whole)) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(read_file(whole + "/" + name) == read_file(killed + "/" + name)) << name;
  }
  EXPECT_FALSE(fs::exists(killed + "/.convert.json"));
  const Ended again = convert(plain.path(), killed, "fp8", small);
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.err.find("holds a model already"), std::string::npos) << again.err;
}

// The same numbers as those that are converted afterwards.
TEST(Convert, InitMakesFp8) {
  const TempFolder work;
  const std::string shape = work.write("shape.json", test::config(2).dump());
  const auto init = [&](const std::string& out, const std::vector<std::string>& more) {
    return run(std::vector<std::string>{"init", "--config", shape, "--output", out} + more).code;
  };
  ASSERT_EQ(init(work / "plain", {"--dtype", "fp32"}), 0);
  ASSERT_EQ(init(work / "fp8", {"--dtype", "fp32", "--to", "fp8"}), 0);
  ASSERT_EQ(convert(work / "plain", work / "converted", "fp8").code, 0);
  const io::CheckpointReader a = io::CheckpointReader::open(work / "fp8"),
                             b = io::CheckpointReader::open(work / "converted");
  ASSERT_EQ(a.names(), b.names());
  for (const std::string& name : a.names()) {
    const io::TensorEntry &x = a.at(name), &y = b.at(name);
    ASSERT_EQ(x.type, y.type) << name;
    ASSERT_EQ(x.shape, y.shape) << name;
    EXPECT_EQ(std::memcmp(x.data, y.data, x.bytes), 0) << name;
  }
  EXPECT_EQ(config_of(work / "fp8")["quantization_config"],
            config_of(work / "converted")["quantization_config"]);
}

TEST(Convert, WhatItDoesNotTakeIsSaid) {
  const TempFolder work;
  const SmallModel plain(false);
  EXPECT_NE(convert(plain.path(), work / "x", "nf5").err.find("use bf16, fp32 or fp8"),
            std::string::npos);
  EXPECT_NE(convert(plain.path(), plain.path(), "fp8").err.find("is the folder that is read"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(work / "x"));
}

}  // namespace
}  // namespace hone
