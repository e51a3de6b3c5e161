// Kahneman-Tversky optimisation (Ethayarajh et al., 2024): answers labelled desirable or not.
#pragma once

#include "train/options.h"
#include "train/recipe.h"

namespace hone::train {

// options outlive it. UserError for options that make no sense together.
std::unique_ptr<Recipe> kto_recipe(const KtoOptions& options, Machine& machine, const Say& say);

}  // namespace hone::train
