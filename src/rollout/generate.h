// The generation engine: continuous batching over paged keys and values, on the same kernels and
// weights as training, so that the log-probs it reports are the bits that scoring and training
// compute.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "exec/context.h"
#include "models/decoder.h"

namespace hone::rollout {

struct SamplingOptions {
  double temperature = 1;  // 0: greedy, ties to the lowest id
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // 1: off
  int num_samples = 1;     // a prompt
  int64_t max_new_tokens = 256;
  bool ignore_eos = false;
  std::vector<int32_t> stop_ids;  // end of sequence; drawn ones are part of the completion
  uint64_t seed = 42;             // a draw is a function of (seed, prompt key, sample, position)
  int batch_size = 16;            // sequences decoded together; results don't depend on it
  int64_t prefill_tokens = 2048;  // prompt tokens computed in one pass; results don't depend on it
};

struct Prompt {
  std::vector<int32_t> tokens;  // at least one
  uint64_t key = 0;             // identity of the prompt, for its random numbers
};

struct Completion {
  size_t prompt = 0;
  int sample = 0;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;  // log-softmax of the unscaled logits at each drawn token
  std::string finish_reason;    // "stop" or "length"
};

// Throws UserError for options that make no sense.
void check_sampling(const SamplingOptions& options);

// Generates with one model, and keeps the keys and values it computed: of a prompt that begins like
// an earlier one and its answer (a conversation's next turn) only the rest is read. Keys of weights
// that have changed since (ParamStore::version) are not used.
class Generator {
 public:
  // The decoder must outlive it.
  Generator(const Context& ctx, const models::Decoder& decoder);
  ~Generator();

  // Calls done for every (prompt, sample), in that order. token, if given, is called for each token
  // of a single running sequence as it is drawn (for streaming to a terminal).
  void run(std::span<const Prompt> prompts, const SamplingOptions& options,
           const std::function<void(const Completion&)>& done,
           const std::function<void(int32_t)>& token = {});

 private:
  struct Keys;
  Context ctx_;
  const models::Decoder& decoder_;
  std::unique_ptr<Keys> keys_;
};

// The same once, with a cache for these prompts alone.
void generate(Context& ctx, const models::Decoder& decoder, std::span<const Prompt> prompts,
              const SamplingOptions& options, const std::function<void(const Completion&)>& done,
              const std::function<void(int32_t)>& token = {});

// Draws from the logits [V] of one row with uniform u in [0, 1): of the top_k largest, of these the
// fewest largest that have top_p of the probability at that temperature (lower ids first among
// equals, one at least), the first in ascending order where the running sum passes u.
// Probabilities are in fp32, their sums in fp64.
int32_t draw(std::span<const float> logits, const SamplingOptions& options, double u);

}  // namespace hone::rollout
