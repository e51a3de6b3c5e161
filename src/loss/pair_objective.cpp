#include "loss/pair_objective.h"

#include <unordered_set>

#include "core/error.h"

namespace hone::loss {

ObjectiveResult PairObjective::evaluate(const ObjectiveInput& input) const {
  Batch batch;
  batch.samples = input.samples.size();
  batch.step_pairs = static_cast<std::size_t>(o_.pairs);
  batch.step_chosen_tokens = static_cast<std::size_t>(o_.chosen_tokens);
  Segments segments;
  std::unordered_set<int64_t> begun;
  for (const SampleRange& range : input.samples) {
    HONE_CHECK(range.begin == static_cast<int64_t>(segments.total()));
    segments.add(static_cast<std::size_t>(range.end - range.begin));
    batch.pair.push_back(range.sample);
    batch.chosen.push_back(begun.insert(range.sample).second);
  }
  batch.logprob = {{input.logprob.begin(), input.logprob.end()}, segments};
  if (o_.reference) {
    HONE_CHECK(input.reference.size() == input.logprob.size());
    batch.ref_logprob = {{input.reference.begin(), input.reference.end()}, segments};
  }
  // ORPO's NLL is that of the answer, as in its paper.
  batch.prompt_logprob.segments.offsets.assign(batch.samples + 1, 0);
  Evaluation e = loss::evaluate(o_.loss, batch);
  return {.loss = e.loss, .dlogprob = std::move(e.dlogprob), .metrics = e.notes.metrics};
}

}  // namespace hone::loss
