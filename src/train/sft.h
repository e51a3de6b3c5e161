// Supervised fine-tuning.
#pragma once

#include "train/options.h"
#include "train/recipe.h"

namespace hone::train {

// options outlive it.
std::unique_ptr<Recipe> sft_recipe(const SftOptions& options, Machine& machine, const Say& say);

}  // namespace hone::train
