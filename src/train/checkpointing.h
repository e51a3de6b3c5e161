// Saving and restoring the state of a training run (io/checkpoint.h). Everything else a resume
// needs is a function of seed and step.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/checkpoint.h"
#include "load/model.h"
#include "optim/adamw.h"

namespace hone::train {

// Values of the trained parameters (their fp32 masters where they have one) and the optimizer's
// state. The values lie in a file that PEFT and transformers read, in a folder that they and
// hone take like any: adapter_model.safetensors with the adapter's config, or model.safetensors
// with what isn't trained and the files of the base; options.write_more follows these. Returns the
// checkpoint's folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, int64_t step,
                                      load::Model& model, const optim::AdamW& adamw,
                                      const nlohmann::json& state,
                                      const io::CheckpointOptions& options);

// Bytes of its tensors.
size_t checkpoint_bytes(load::Model& model, const optim::AdamW& adamw);

// Restores model and optimizer. UserError if the checkpoint is of another set-up.
void restore_checkpoint(const io::TrainingCheckpoint& checkpoint, Context& ctx, load::Model& model,
                        optim::AdamW& adamw);

}  // namespace hone::train
