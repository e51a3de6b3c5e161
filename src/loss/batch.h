// Samples as losses see them: log-probs token by token, and what belongs to a sample. Everything is
// in the order of the samples; what isn't there is empty.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <hone/autodiff.h>

namespace hone::loss {

using autodiff::Segments;
using autodiff::Tape;
using autodiff::Vec;

// One number a token; segment i is sample i's. Absent: no values and no segments.
struct Column {
  std::vector<double> values;
  Segments segments;
  bool present() const { return segments.count() > 0; }
};

struct Batch {
  std::size_t samples = 0;
  // Where the batch is a part of a step: what the step's means over pairs, and over the tokens of
  // chosen answers, are divided by, so that the parts' losses and metrics add up. 0: it is all.
  std::size_t step_pairs = 0, step_chosen_tokens = 0;
  std::size_t step_samples = 0, step_desirable = 0;  // of KTO's
  Column logprob;                     // of the completion's tokens, by the policy; always there
  Column ref_logprob;                 // by the reference
  Column old_logprob;                 // by the policy that sampled them
  Column prompt_logprob;              // of the prompt's tokens that have one (ORPO)
  Column kl_logprob, kl_ref_logprob;  // of another sample's completion after this prompt (KTO)
  Column entropy;                     // of the distribution each token was drawn from
  Column log_sum_sq;                  // log of the sum of its squared probabilities (WPO)
  Column sampling_ratio;              // weight against the sampler's own log-probs
  Column mask;                        // 0: a token the model didn't write (a tool's answer)
  Column value, old_value;            // of a critic, before each token

  std::optional<double> kl;  // of the step, instead of kl_logprob and kl_ref_logprob

  // One a sample.
  std::vector<double> score;                                // of a reward model
  std::vector<double> margin;                               // of a pair, at its chosen side
  std::vector<double> advantage;                            // given, else from rewards
  std::vector<int64_t> pair;                                // which pair it belongs to ...
  std::vector<uint8_t> chosen;                              // ... and whether it is the better side
  std::vector<uint8_t> label;                               // KTO: desirable
  std::vector<int64_t> group;                               // samples of one prompt
  std::vector<uint8_t> truncated;                           // cut off before it ended
  std::vector<std::vector<std::optional<double>>> rewards;  // [sample][function]

  const Segments& tokens() const { return logprob.segments; }
};

// Positions of the two sides of every pair, in the order in which pairs appear.
struct Pairs {
  std::vector<std::size_t> chosen, rejected;
};
// UserError: a pair without two sides, or with two of a kind.
Pairs pairs_of(const Batch& batch);

// UserError naming the field where a column is missing or has not one value for each of the
// log-probs.
void need(const Batch& batch, const Column& column, const char* field);

using Metrics = std::vector<std::pair<std::string, double>>;

// What a loss differentiates by.
struct Variables {
  Vec logprob, prompt_logprob, value, score;  // undefined where the batch has none
};

// What else a loss found out.
struct Notes {
  Metrics metrics;
  std::vector<double> advantages;  // one a sample, or one a token (PPO)
};

using Loss = std::function<Vec(Tape&, const Batch&, const Variables&, Notes&)>;

struct Evaluation {
  double loss = 0;
  std::vector<double> dlogprob, dprompt_logprob, dvalue, dscore;
  Notes notes;
};
Evaluation evaluate(const Loss& loss, const Batch& batch);

// The adjoint against differences of the loss to both sides of every variable, with the values that
// no adjoint passes through held still: it must lie between the two.
struct AdjointCheck {
  double largest_gap = 0;  // by how much it doesn't, over 1 + |adjoint|
  std::string where;       // "logprob 3 of sample 1"
  bool passed = true;      // every gap at most 1e-5
};
AdjointCheck check_adjoint(const Loss& loss, const Batch& batch, const Evaluation& at);

}  // namespace hone::loss
