#include "loss/label_objective.h"

#include <algorithm>

#include "core/error.h"

namespace hone::loss {

LabelObjective::LabelObjective(Options options)
    : o_(std::move(options)),
      desirable_(static_cast<std::size_t>(
          std::count(o_.desirable.begin(), o_.desirable.end(), uint8_t{1}))) {}

ObjectiveResult LabelObjective::evaluate(const ObjectiveInput& input) const {
  Batch batch;
  batch.samples = input.samples.size();
  batch.step_samples = o_.desirable.size();
  batch.step_desirable = desirable_;
  batch.kl = o_.kl;
  Segments segments;
  for (const SampleRange& range : input.samples) {
    HONE_CHECK(range.begin == static_cast<int64_t>(segments.total()));
    segments.add(static_cast<std::size_t>(range.end - range.begin));
    batch.label.push_back(o_.desirable.at(static_cast<std::size_t>(range.sample)));
  }
  HONE_CHECK(input.reference.size() == input.logprob.size());
  batch.logprob = {{input.logprob.begin(), input.logprob.end()}, segments};
  batch.ref_logprob = {{input.reference.begin(), input.reference.end()}, segments};
  Evaluation e = loss::evaluate(o_.loss, batch);
  return {.loss = e.loss, .dlogprob = std::move(e.dlogprob), .metrics = e.notes.metrics};
}

}  // namespace hone::loss
