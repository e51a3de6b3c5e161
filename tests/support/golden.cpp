#include "support/golden.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace hone::test {

std::filesystem::path models_folder() {
  return std::filesystem::path(HONE_SOURCE_DIR) / "tests/fixtures/models";
}

std::vector<std::string> golden_families() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(models_folder())) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<cpu::Isa> paths() {
  const char* which = std::getenv("HONE_TEST_PATHS");
  if (which != nullptr && std::string(which) == "all") return cpu::available_isas();
  return {cpu::best_isa()};
}

Golden::Golden(const std::string& family)
    : folder_(models_folder() / family),
      file_(io::SafetensorsFile::open(folder_ / "golden.safetensors")) {}

std::vector<double> Golden::values(const std::string& name) const {
  const io::TensorEntry& t = file_.at(name);
  std::vector<double> v(static_cast<size_t>(t.elements()));
  for (size_t i = 0; i < v.size(); ++i) {
    switch (t.type) {
      case io::FileType::f64:
        std::memcpy(&v[i], t.data + i * 8, 8);
        break;
      case io::FileType::f32: {
        float f;
        std::memcpy(&f, t.data + i * 4, 4);
        v[i] = f;
        break;
      }
      case io::FileType::i32: {
        int32_t k;
        std::memcpy(&k, t.data + i * 4, 4);
        v[i] = k;
        break;
      }
      case io::FileType::u8:
        v[i] = static_cast<double>(t.data[i]);
        break;
      default:
        throw std::runtime_error("golden tensor of an unexpected type: " + name);
    }
  }
  return v;
}

std::vector<int32_t> Golden::tokens(const std::string& name) const {
  std::vector<int32_t> out;
  for (const double v : values(name)) out.push_back(static_cast<int32_t>(v));
  return out;
}

std::vector<data::Sample> Golden::train_samples() const {
  std::vector<data::Sample> samples;
  for (int j = 0; has("train.tokens." + std::to_string(j)); ++j) {
    data::Sample s;
    s.tokens = tokens("train.tokens." + std::to_string(j));
    for (const double v : values("train.trained." + std::to_string(j))) s.trained.push_back(v != 0);
    s.trained_count = std::count(s.trained.begin(), s.trained.end(), 1);
    s.index = j;
    s.key = static_cast<uint64_t>(j);
    samples.push_back(std::move(s));
  }
  return samples;
}

double error(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(a[i] - b[i]);
    if (!(d <= worst)) worst = d;  // NaN is worst
    scale = std::max(scale, std::fabs(b[i]));
  }
  return scale == 0 ? worst : worst / scale;
}

double rms_error(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double sum = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += (a[i] - b[i]) * (a[i] - b[i]);
    scale += b[i] * b[i];
  }
  return scale == 0 ? std::sqrt(sum) : std::sqrt(sum / scale);
}

}  // namespace hone::test
