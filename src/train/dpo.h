// Direct preference optimisation and its family, over pairs of a better and a worse answer.
#pragma once

#include "train/options.h"
#include "train/recipe.h"

namespace hone::train {

// options outlive it. UserError for losses and options that make no sense together.
std::unique_ptr<Recipe> dpo_recipe(const DpoOptions& options, Machine& machine, const Say& say);

}  // namespace hone::train
