// A recipe whose loss compares with a reference (train/reference.h).
#pragma once

#include "train/data_recipe.h"
#include "train/reference.h"

namespace hone::train {

class ReferenceRecipe : public DataRecipe {
 public:
  size_t host_bytes() const override;

 protected:
  using DataRecipe::DataRecipe;

  // Before the first step; without, there is no reference. UserError.
  void compare_with(Reference reference) { kind_ = reference_kind(options(), reference, model()); }
  ReferenceKind reference() const { return kind_; }
  // Where the reference is kept: computes that of all samples that the run uses and is evaluated
  // on. what: "pairs".
  void keep_references(Context& ctx, int64_t micro_batch_tokens, const char* what,
                       KeptReference& kept, KeptReference& eval_kept);

 private:
  ReferenceKind kind_ = ReferenceKind::none;
};

}  // namespace hone::train
