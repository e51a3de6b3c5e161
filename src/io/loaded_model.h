// A model from a Hugging Face folder, ready to run: configuration, parameters, adapter, device.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exec/context.h"
#include "io/peft.h"
#include "io/safetensors.h"
#include "models/decoder.h"

namespace hone::io {

struct LoadOptions {
  std::filesystem::path folder;
  std::optional<DType> dtype;  // of activations; null: the config's, fp16 becomes bf16
  int threads = 0;             // 0: all
  size_t memory_limit = 0;     // of the arena; 0: none
  // Shapes only, on the target's kernel table: needs config.json; no weight is read, no memory
  // taken.
  bool meta = false;
  std::function<void(const std::string&)> warn;  // one line of text; null: dropped
};

// Use: construct (reads config and headers, registers parameters); add adapters and set what is
// trainable; load(); run.
class LoadedModel {
 public:
  explicit LoadedModel(const LoadOptions& options);
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;

  const models::ModelConfig& config() const { return decoder_->config(); }
  models::Decoder& decoder() { return *decoder_; }
  ParamStore& params() { return params_; }
  Arena& arena() { return arena_; }
  Device& device() { return device_; }
  DType dtype() const { return dtype_; }
  const std::filesystem::path& folder() const { return options_.folder; }
  uint64_t mapped_bytes() const;  // of weights used from the mapped files
  uint64_t file_bytes() const;  // of all weights, as they are (or without them: would be) in files

  // A new adapter: every linear of the blocks that the config targets gets a pair, without values.
  // UserError if a target or a block matches nothing. Returns the layers matched.
  // adapter_config() then says what is tuned as PEFT would (resolved_config).
  std::vector<nn::Linear*> add_adapter(const AdapterConfig& config);
  // An existing adapter of PEFT: registered, and its values kept until load(). trainable: its
  // tensors train.
  std::vector<nn::Linear*> load_adapter(const std::filesystem::path& folder, bool trainable);
  const std::optional<AdapterConfig>& adapter_config() const { return adapter_config_; }
  const std::vector<nn::Linear*>& adapted() const { return adapted_; }

  // Binds or converts every parameter. Trainable base weights become copies in the arena, all else
  // is used from the mapped file where its format allows. New adapters are initialised from
  // init_seed. Checks all weights for NaN and infinity. copy_weights: all weights become copies,
  // whose huge pages are read faster, as bf16t where the device takes that, and the file's pages
  // are let go; for work that is bound by reading them again and again.
  void load(uint64_t init_seed = 0, bool copy_weights = false);

  // A context for inference on this model.
  Context context();

 private:
  void register_adapter(const AdapterConfig& config,
                        const std::vector<std::pair<nn::Linear*, int64_t>>& layers, bool trainable);
  void check_targets(const AdapterConfig& config) const;
  void check_names() const;
  std::string config_text() const;
  void load_parameter(ParamId id, bool copy);
  void copy_parameter(ParamId id, const TensorEntry& entry);
  // To bf16t from its numbers as bf16. False: the device or the numbers are not fit for it.
  bool pack_parameter(ParamId id, const void* data);
  void drop_pages(const TensorEntry& entry);

  LoadOptions options_;
  Arena arena_;
  ThreadPool pool_;
  Device device_;
  DType dtype_ = DType::f32;
  bool takes_bf16t_ = false;
  ParamStore params_;
  std::unique_ptr<models::Decoder> decoder_;
  std::optional<CheckpointReader> reader_;
  std::optional<AdapterConfig> adapter_config_;
  std::optional<Adapter> adapter_values_;
  std::vector<nn::Linear*> adapted_;
};

// Writes what stands beside the weights: of an adapter its config, of a model the tokenizer and
// config of its base.
void save_files_beside_weights(const std::filesystem::path& folder, LoadedModel& model);
// Writes the adapter as a PEFT folder.
void save_adapter(const std::filesystem::path& folder, LoadedModel& model);
// Writes all base weights as a Hugging Face folder in the run's dtype (fp32 runs: fp32), with the
// tokenizer and config of the base.
void save_model(const std::filesystem::path& folder, LoadedModel& model);

}  // namespace hone::io
