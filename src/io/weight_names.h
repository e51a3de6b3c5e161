// From the names of tensors in a model folder to the names of parameters: what other programs wrap
// around a model and its names is taken off, and whether the head is a matrix of its own is read
// off the weights.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "io/peft.h"
#include "io/safetensors.h"
#include "models/config.h"

namespace hone::io {

// The tensors whose names are not those of transformers' save_pretrained: name -> that name. Taken
// off are, wherever they stand, the parts that wrappers add: module, _orig_mod,
// _fsdp_wrapped_module, _checkpoint_wrapped_module, and PEFT's base_layer. Then what stands before
// the one "layers.0.input_layernorm.weight" becomes "model." ("model.language_model.",
// "language_model.model.", "base_model.model.model.", nothing, ...), and nothing stands before the
// one "lm_head.weight". Empty where two tensors would get one name.
std::map<std::string, std::string> canonical_names(const std::vector<std::string>& names);

// A name without the parts that wrappers add.
std::string without_wrappers(std::string_view name);

// The same for an adapter: what all its modules of blocks have before "layers." becomes "model.",
// and its config targets just these modules, with their ranks and scales. Returns what stood there;
// null: nothing else, and nothing was changed.
std::optional<std::string> unwrap_modules(Adapter& adapter);

// Opens the folder's weights under canonical names. Under tie_word_embeddings, as transformers 5.23
// does: an lm_head.weight that is equal to the embedding is left out, one that differs is used
// (config then says untied), and one without an embedding is the embedding. warn gets a line where
// names or config were not taken at their word. UserError for weights of an adapter.
CheckpointReader open_model_weights(const std::filesystem::path& folder,
                                    models::ModelConfig& config,
                                    const std::function<void(const std::string&)>& warn);

}  // namespace hone::io
