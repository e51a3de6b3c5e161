#include "train/evaluate.h"

#include <algorithm>

#include "loss/objective.h"
#include "rollout/generate.h"
#include "train/pass.h"

namespace hone::train {

double evaluate_loss(Context& ctx, const models::Decoder& decoder, const data::Dataset& dataset,
                     int64_t micro_batch_tokens) {
  double sum = 0;
  int64_t count = 0;
  std::vector<data::Sample> pending;
  int64_t pending_tokens = 0;
  const auto flush = [&] {
    for (const data::MicroBatch& mb : data::pack(pending, {.token_budget = micro_batch_tokens})) {
      for (const double lp : score(ctx, decoder, mb)) sum -= lp;
      count += static_cast<int64_t>(mb.targets.size());
    }
    pending.clear();
    pending_tokens = 0;
  };
  for (int64_t i = 0; i < dataset.size(); ++i) {
    data::Sample s = dataset.get(i);
    dataset.note(s);
    if (s.trained_count == 0) continue;
    if (pending_tokens + s.size() > micro_batch_tokens && !pending.empty()) flush();
    pending_tokens += s.size();
    pending.push_back(std::move(s));
  }
  if (!pending.empty()) flush();
  dataset.warn_noted();
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

std::vector<SampleAnswer> sample_answers(Context& ctx, const models::Decoder& decoder,
                                         const data::Dataset& dataset, int64_t count,
                                         int64_t max_new_tokens,
                                         const std::vector<int32_t>& stop_ids) {
  std::vector<SampleAnswer> answers;
  std::vector<rollout::Prompt> prompts;
  const Tokenizer& tokenizer = dataset.text_model().tokenizer;
  for (int64_t i = 0; i < dataset.size() && static_cast<int64_t>(prompts.size()) < count; ++i) {
    const data::Sample s = dataset.get(i);
    // The last run of trained tokens of the sequence that is answered.
    const bool pair = dataset.options().format == data::DatasetFormat::kPairs;
    if (pair && s.trained_count == 0) continue;
    int64_t end = pair ? s.lengths.front() : s.size();
    while (end > 0 && !s.trained[static_cast<size_t>(end - 1)]) --end;
    int64_t begin = end;
    while (begin > 0 && s.trained[static_cast<size_t>(begin - 1)]) --begin;
    const int64_t start = pair || s.lengths.empty() ? 0 : s.size() - s.lengths.back();
    if (begin == end || begin == start) continue;
    const std::vector<int32_t> prompt(s.tokens.begin() + start, s.tokens.begin() + begin);
    const std::vector<int32_t> reference(s.tokens.begin() + begin, s.tokens.begin() + end);
    answers.push_back(
        {tokenizer.decode(prompt), "", tokenizer.decode(reference, /*skip_special_tokens=*/true)});
    prompts.push_back({prompt, static_cast<uint64_t>(i)});
  }
  rollout::SamplingOptions sampling;
  sampling.temperature = 0;
  sampling.max_new_tokens = max_new_tokens;
  sampling.stop_ids = stop_ids;
  Context c = inference(ctx);
  rollout::generate(c, decoder, prompts, sampling, [&](const rollout::Completion& done) {
    answers[done.prompt].answer = tokenizer.decode(done.tokens, /*skip_special_tokens=*/true);
  });
  return answers;
}

}  // namespace hone::train
