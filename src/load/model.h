// A model from a Hugging Face folder, ready to run: configuration, parameters, adapter.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exec/context.h"
#include "exec/machine.h"
#include "io/peft.h"
#include "io/peft_targets.h"
#include "io/safetensors.h"
#include "load/mapped.h"
#include "load/streamed.h"
#include "models/decoder.h"

namespace hone::load {

struct ModelOptions {
  std::filesystem::path folder;
  std::optional<DType> dtype;  // of activations; null: the config's, fp16 becomes bf16
  // Bytes of memory for weights that are then read from disk as they are needed
  // (load/streamed.h); 0: they are used from mapped files, which the system reads and lets go of.
  size_t weights_memory = 0;
  std::function<void(const std::string&)> warn;  // one line of text; null: dropped
};

// Whether an adapter has a pair for a layer: a router only if it is named.
bool is_target(const io::AdapterRules& rules, const nn::Linear& linear);

// Use: construct (reads config and headers, registers parameters); add adapters and set what is
// trainable; load(); run. On a meta machine: needs config.json; no weight is read.
class Model {
 public:
  // The machine outlives it.
  Model(Machine& machine, const ModelOptions& options);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const models::ModelConfig& config() const { return decoder_->config(); }
  models::Decoder& decoder() { return *decoder_; }
  ParamStore& params() { return params_; }
  const ParamStore& params() const { return params_; }
  Machine& machine() { return machine_; }
  Device& device() { return *device_; }
  DType dtype() const { return dtype_; }
  const std::filesystem::path& folder() const { return options_.folder; }
  uint64_t mapped_bytes() const;  // of weights used from files, mapped or read as they are needed
  // The least weights_memory for these; after load().
  size_t least_weights_memory() const;
  uint64_t file_bytes() const;  // of all weights, as they are (or without them: would be) in files

  // A new adapter: every linear of the blocks that the config targets gets a pair, without values.
  // UserError if a target or a block matches nothing. Returns the layers matched.
  // adapter_config() then says what is tuned as PEFT would (resolved_config).
  std::vector<nn::Linear*> add_adapter(const io::AdapterConfig& config);
  // An existing adapter of PEFT: registered, and its values kept until load(). trainable: its
  // tensors train.
  std::vector<nn::Linear*> load_adapter(const std::filesystem::path& folder, bool trainable);
  const std::optional<io::AdapterConfig>& adapter_config() const { return adapter_config_; }
  const std::vector<nn::Linear*>& adapted() const { return adapted_; }

  // Places or converts every parameter. Trainable base weights become copies in the arena, all else
  // is used from the mapped file where its format allows: a unit of it is checked for NaN and
  // infinity as it is first used (UserError), what is copied at once. New adapters are initialised
  // from init_seed. copy_weights: all weights become copies, whose huge pages are read faster, as
  // the compact format where the device has one, and the file's pages are let go; for work that is
  // bound by reading them again and again.
  void load(uint64_t init_seed = 0, bool copy_weights = false);
  // What was read from disk, of a model with weights_memory.
  StreamedFiles::Counters streamed() const;
  // Checks all weights that weren't used yet. UserError.
  void check_weights();

  // A context for inference on this model.
  Context context();

 private:
  void register_adapter(const io::AdapterConfig& config,
                        const std::vector<std::pair<nn::Linear*, int64_t>>& layers, bool trainable);
  void check_targets(const io::AdapterConfig& config) const;
  void fill_adapter(uint64_t init_seed);
  const std::string& architecture() const { return decoder_->config().architecture; }
  Format file_format(ParamId id) const;
  void load_parameter(ParamId id, bool copy);
  void convert_parameter(ParamId id);
  void copy_parameter(ParamId id);
  // To the device's compact format. False: it has none, or the numbers are not fit for it.
  bool pack_parameter(ParamId id, const void* data);
  void drop_pages(ParamId id);
  void keep_tied(StreamedFiles& files) const;

  Machine& machine_;
  ModelOptions options_;
  DType dtype_ = DType::f32;
  Device* device_ = nullptr;
  ParamStore params_;
  std::unique_ptr<models::Decoder> decoder_;
  std::optional<io::CheckpointReader> reader_;
  std::vector<Source> sources_;         // by ParamId, of base weights; empty without weights
  std::unique_ptr<Residency> nowhere_;  // of a meta machine
  std::unique_ptr<MappedFiles> mapped_;
  std::unique_ptr<StreamedFiles> streamed_;
  std::optional<io::AdapterConfig> adapter_config_;
  std::optional<io::Adapter> adapter_values_;
  std::vector<nn::Linear*> adapted_;
};

}  // namespace hone::load
