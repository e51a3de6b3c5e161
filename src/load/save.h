// A model or its adapter to a folder of Hugging Face.
#pragma once

#include "load/model.h"

namespace hone::load {

// Writes what stands beside the weights: of an adapter its config, of a model the tokenizer and
// config of its base.
void save_files_beside_weights(const std::filesystem::path& folder, Model& model);
// Writes the adapter as a PEFT folder.
void save_adapter(const std::filesystem::path& folder, Model& model);
// Writes all base weights as a Hugging Face folder in the run's dtype (fp32 runs: fp32; frozen ones
// as they were read, quantised ones as numbers of the run's dtype), with the tokenizer and config
// of the base.
void save_model(const std::filesystem::path& folder, Model& model);

// A base weight as it is saved: its value, of quantised formats its numbers in the run's dtype.
class SavedValue {
 public:
  SavedValue(Model& model, ParamId id);
  static io::FileType type(const Model& model, ParamId id);
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  Lease lease_;
  std::vector<std::byte> numbers_;
  std::span<const std::byte> bytes_;
};

}  // namespace hone::load
