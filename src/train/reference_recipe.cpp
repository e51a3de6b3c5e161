#include "train/reference_recipe.h"

namespace hone::train {

size_t ReferenceRecipe::host_bytes() const {
  return kind_ == ReferenceKind::kept ? kept_bytes(options()) : 0;
}

void ReferenceRecipe::keep_references(Context& ctx, int64_t micro_batch_tokens, const char* what,
                                      KeptReference& kept, KeptReference& eval_kept) {
  const std::vector<int64_t> used = used_indices(), held_out = eval_indices();
  say(fmt::format("computing the reference's log-probs of {} {}", used.size() + held_out.size(),
                  what));
  const models::Decoder& decoder = model().decoder();
  keep_reference(ctx, decoder, dataset(), used, micro_batch_tokens, kept);
  if (evaluates())
    keep_reference(ctx, decoder, eval_dataset(), held_out, micro_batch_tokens, eval_kept);
}

}  // namespace hone::train
