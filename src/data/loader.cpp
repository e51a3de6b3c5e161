#include "data/loader.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/rng.h"
#include "core/thread_pool.h"
#include "data/token_cache.h"

namespace hone::data {

namespace {
constexpr int kRounds = 8;
}

Permutation::Permutation(int64_t n, uint64_t seed, int64_t epoch)
    : n_(static_cast<uint64_t>(n)), seed_(seed), epoch_(static_cast<uint64_t>(epoch)) {
  HONE_CHECK(n > 0 && epoch >= 0);
  half_bits_ = 1;
  while (half_bits_ < 32 && (uint64_t{1} << (2 * half_bits_)) < n_) ++half_bits_;
}

int64_t Permutation::operator()(int64_t i) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto x = static_cast<uint64_t>(i);
  do {
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t f = random_words(seed_, Purpose::shuffle, epoch_, right | round << 40)[0];
      const uint64_t next = left ^ (f & mask);
      left = right;
      right = next;
    }
    x = left << half_bits_ | right;
  } while (x >= n_);
  return static_cast<int64_t>(x);
}

struct Loader::Impl {
  Impl(std::shared_ptr<const Dataset> set, LoaderOptions loader_options)
      : dataset(std::move(set)), options(std::move(loader_options)) {}

  struct Slot {
    bool done = false;
    Sample sample;
    std::exception_ptr error;
  };

  std::shared_ptr<const Dataset> dataset;
  LoaderOptions options;
  std::unique_ptr<TokenCache> cache;
  int64_t n = 0;

  // Positions count samples over all epochs: epoch * n + place in the epoch.
  std::mutex mutex;
  std::condition_variable work, ready;
  std::deque<Slot> window;  // of the positions from window_begin on
  int64_t window_begin = 0;
  int64_t needed_end = 0;   // positions before it are asked for now
  int64_t held_bytes = 0;   // of the done samples in the window
  uint64_t generation = 0;  // of the window
  bool stop = false;
  Stats stats;
  std::vector<std::thread> threads;

  int64_t sample_index(int64_t epoch, int64_t i) const {
    return options.shuffle ? Permutation(n, options.seed, epoch)(i) : i;
  }

  bool may_claim() const {
    const int64_t next = window_begin + static_cast<int64_t>(window.size());
    if (next < needed_end) return true;
    if (needed_end == 0) return false;  // nothing was asked for yet
    if (options.num_epochs > 0 && next >= options.num_epochs * n) return false;
    // The table of slots counts too.
    return held_bytes + static_cast<int64_t>(window.size() * sizeof(Slot)) < options.budget_bytes;
  }

  Sample prepare(int64_t index, bool& from_cache) {
    Sample sample;
    from_cache = cache && cache->find(index, sample);
    if (from_cache) return sample;
    sample = dataset->get(index);
    if (cache) cache->add(sample);
    return sample;
  }

  void run() {
    // Training comes first where it and the preparation share cores.
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), 5);
    std::unique_lock lock(mutex);
    for (;;) {
      work.wait(lock, [&] { return stop || may_claim(); });
      if (stop) return;
      const uint64_t mine = generation;
      const int64_t position = window_begin + static_cast<int64_t>(window.size());
      window.emplace_back();
      lock.unlock();
      Slot slot;
      bool from_cache = false;
      try {
        slot.sample = prepare(sample_index(position / n, position % n), from_cache);
      } catch (...) {
        slot.error = std::current_exception();
      }
      slot.done = true;
      lock.lock();
      (from_cache ? stats.from_cache : stats.tokenized) += 1;
      if (mine != generation || position < window_begin) continue;
      held_bytes += slot.sample.memory_bytes();
      stats.peak_bytes = std::max(stats.peak_bytes, held_bytes);
      window[static_cast<size_t>(position - window_begin)] = std::move(slot);
      if (position < needed_end) ready.notify_one();
    }
  }

  // Puts the window's begin at the step; gives its positions.
  std::pair<int64_t, int64_t> seek(int64_t epoch, int64_t step) {
    const int64_t begin = epoch * n + step * options.batch_size;
    const int64_t end = std::min(begin + options.batch_size, (epoch + 1) * n);
    if (begin < window_begin || begin > window_begin + static_cast<int64_t>(window.size())) {
      window.clear();
      held_bytes = 0;
      window_begin = begin;
      ++generation;
    }
    while (window_begin < begin) pop_front();
    needed_end = end;
    return {begin, end};
  }

  void pop_front() {
    if (window.front().done) held_bytes -= window.front().sample.memory_bytes();
    window.pop_front();
    ++window_begin;
  }
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options)
    : impl_(std::make_unique<Impl>(std::move(dataset), std::move(options))) {
  const LoaderOptions& o = impl_->options;
  if (o.batch_size < 1)
    user_error("dataset", "batch_size is {}; expected at least 1", o.batch_size);
  impl_->n = impl_->dataset->size();
  if (!o.cache_folder.empty())
    impl_->cache = std::make_unique<TokenCache>(
        o.cache_folder, impl_->dataset->fingerprint(), impl_->n,
        [set = impl_->dataset](const std::string& line) { set->warn(line); });
  const int threads = o.threads > 0 ? o.threads : available_threads();
  for (int t = 0; t < threads; ++t) impl_->threads.emplace_back([this] { impl_->run(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->work.notify_all();
  for (auto& thread : impl_->threads) thread.join();
  impl_->dataset->warn_noted();
}

int64_t Loader::steps_per_epoch() const {
  return (impl_->n + impl_->options.batch_size - 1) / impl_->options.batch_size;
}

int64_t Loader::sample_index(int64_t epoch, int64_t i) const {
  return impl_->sample_index(epoch, i);
}

void Loader::start(int64_t epoch, int64_t step) {
  HONE_CHECK(epoch >= 0 && step >= 0 && step < steps_per_epoch());
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->seek(epoch, step);
  }
  impl_->work.notify_all();
}

StepSamples Loader::step(int64_t epoch, int64_t step) {
  HONE_CHECK(epoch >= 0 && step >= 0 && step < steps_per_epoch());
  Impl& im = *impl_;
  std::vector<Impl::Slot> slots;
  {
    std::unique_lock lock(im.mutex);
    const auto [begin, end] = im.seek(epoch, step);
    im.work.notify_all();
    const auto all_done = [&, begin = begin, end = end] {
      if (static_cast<int64_t>(im.window.size()) < end - begin) return false;
      return std::all_of(im.window.begin(), im.window.begin() + (end - begin),
                         [](const Impl::Slot& slot) { return slot.done; });
    };
    const auto start = std::chrono::steady_clock::now();
    im.ready.wait(lock, all_done);
    im.stats.wait_seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (int64_t p = begin; p < end; ++p)
      if (im.window[static_cast<size_t>(p - begin)].error)
        std::rethrow_exception(im.window[static_cast<size_t>(p - begin)].error);
    for (int64_t p = begin; p < end; ++p) {
      im.held_bytes -= im.window.front().sample.memory_bytes();
      slots.push_back(std::move(im.window.front()));
      im.window.pop_front();
      ++im.window_begin;
    }
  }
  im.work.notify_all();

  StepSamples out;
  for (Impl::Slot& slot : slots) {
    im.dataset->note(slot.sample);
    if (slot.sample.trained_count == 0) {
      ++out.left_out;
      continue;
    }
    out.tokens += slot.sample.size();
    out.trained_tokens += slot.sample.trained_count;
    out.samples.push_back(std::move(slot.sample));
  }
  if (step + 1 == steps_per_epoch()) im.dataset->warn_noted();
  return out;
}

Loader::Stats Loader::stats() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->stats;
}

const Dataset& Loader::dataset() const { return *impl_->dataset; }

}  // namespace hone::data
