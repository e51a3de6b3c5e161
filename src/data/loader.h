// The training order, and samples prepared ahead of their use by background threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace hone::data {

// A permutation of [0, n) computed element by element: a Feistel network over the next power of
// four with Philox as round function, walked until the value is below n (Black & Rogaway, "Ciphers
// with arbitrary finite domains", CT-RSA 2002). A function of (n, seed, epoch).
class Permutation {
 public:
  Permutation(int64_t n, uint64_t seed, int64_t epoch);
  int64_t operator()(int64_t i) const;  // 0 <= i < n

 private:
  uint64_t n_;
  uint64_t seed_;
  uint64_t epoch_;
  int half_bits_;
};

struct LoaderOptions {
  int64_t batch_size = 1;  // samples a step; the last step of an epoch has what is left
  bool shuffle = true;     // false: the order of the files
  uint64_t seed = 0;
  int64_t num_epochs = 0;                    // nothing is prepared beyond it; 0 = without end
  int threads = 0;                           // background threads; 0 = all
  int64_t budget_bytes = int64_t{16} << 20;  // prepared samples held ahead of their use
  // Folder for the token cache; "" = none. Samples found there are not tokenised again. A cache
  // that can't be written is given up with one warning.
  std::string cache_folder;
};

// The samples of one step, in order, without those that have nothing to train.
struct StepSamples {
  std::vector<Sample> samples;
  int64_t left_out = 0;        // samples of the step with nothing to train
  int64_t tokens = 0;          // of the samples that are there
  int64_t trained_tokens = 0;  // the same; 0: the step has nothing to compute
};

// A position is (epoch, step) alone: the same position gives the same samples whatever was asked
// before and however many threads there are. One caller at a time.
class Loader {
 public:
  Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t steps_per_epoch() const;  // ceil(N / batch_size)
  // Begins to prepare samples from that step on; returns at once. (While weights are loaded, say.)
  void start(int64_t epoch, int64_t step);
  // The samples of step `step` (from 0) of epoch `epoch` (from 0); the following ones are prepared
  // meanwhile. Rethrows what Dataset::get threw for the first bad sample of the step.
  StepSamples step(int64_t epoch, int64_t step);
  // Data set index of sample `i` of the epoch's order.
  int64_t sample_index(int64_t epoch, int64_t i) const;

  struct Stats {
    int64_t tokenized = 0;    // samples made from text
    int64_t from_cache = 0;   // samples read from the token cache
    int64_t peak_bytes = 0;   // most bytes held ahead
    double wait_seconds = 0;  // that step() waited
  };
  Stats stats() const;
  const Dataset& dataset() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hone::data
