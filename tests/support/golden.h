// The golden models of tests/fixtures/models: reading them, and the error measure of all
// comparisons.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "data/packing.h"
#include "io/safetensors.h"

namespace hone::test {

std::filesystem::path models_folder();
std::vector<std::string> golden_families();

// The instruction paths a test runs on: the best one, or with HONE_TEST_PATHS=all every one of this
// machine.
std::vector<cpu::Isa> paths();

class Golden {
 public:
  explicit Golden(const std::string& family);
  const std::filesystem::path& folder() const { return folder_; }
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  std::vector<double> values(const std::string& name) const;
  std::vector<int32_t> tokens(const std::string& name) const;
  double scalar(const std::string& name) const { return values(name).at(0); }
  // The training batch as samples.
  std::vector<data::Sample> train_samples() const;

 private:
  std::filesystem::path folder_;
  io::SafetensorsFile file_;
};

// max|a - b| / max|b|
double error(const std::vector<double>& a, const std::vector<double>& b);
// |a - b| / |b|, Euclidean
double rms_error(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace hone::test
