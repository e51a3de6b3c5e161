#include "core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <system_error>

#include "core/error.h"
#include "core/spin.h"

namespace hone {
namespace {

// Workers look for the next run this many times before they sleep: a step is thousands of short
// runs.
constexpr int kSpins = 20000;

// ThreadPool::state_: workers enter an open run by adding one, and leave it by taking it away.
constexpr uint64_t kInside = (uint64_t{1} << 16) - 1, kOpen = uint64_t{1} << 16,
                   kGeneration = uint64_t{1} << 17;
constexpr uint64_t generation(uint64_t state) { return state / kGeneration; }

struct Running {
  std::atomic<bool>& flag;
  ~Running() { flag.store(false); }
};

}  // namespace

ThreadPool::ThreadPool(int threads) {
  try {
    for (int worker = 1; worker < threads; ++worker)
      threads_.emplace_back([this, worker] { work(worker); });
  } catch (const std::system_error&) {
    const int got = size();
    join();
    runtime_error("threads",
                  "the system grants {} of {} threads (a limit on processes or address space); use "
                  "--threads {}, or raise the limit",
                  got, threads, got);
  }
}

ThreadPool::~ThreadPool() { join(); }

void ThreadPool::join() {
  stop_.store(true);
  state_.fetch_add(kGeneration);
  wake_sleepers();
  for (auto& t : threads_) t.join();
  threads_.clear();
}

// A worker counts itself as asleep before it looks at the generation for the last time, and this
// looks for sleepers after the generation has changed: one of the two sees the other. The mutex is
// only taken for sleepers; nobody waits for it in a run that follows soon on the last.
void ThreadPool::wake_sleepers() {
  if (asleep_.load() == 0) return;
  { std::lock_guard lock(mutex_); }
  wake_.notify_all();
}

void ThreadPool::drain(int worker) {
  for (;;) {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= n_) return;
    try {
      (*fn_)(task, worker);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      next_.store(n_, std::memory_order_relaxed);
    }
  }
}

// Enters the run after generation `seen`, which is then the one seen; false if it is over.
bool ThreadPool::enter(uint64_t& seen) {
  uint64_t state = state_.load();
  seen = generation(state);
  while ((state & kOpen) != 0) {
    if (state_.compare_exchange_weak(state, state + 1)) return true;
    seen = generation(state);
  }
  return false;
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  const auto news = [&] { return stop_.load() || generation(state_.load()) != seen; };
  for (;;) {
    for (int spin = 0; spin < kSpins && !news(); ++spin) spin_pause();
    if (!news()) {
      std::unique_lock lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, news);
      asleep_.fetch_sub(1);
    }
    if (stop_.load()) return;
    if (!enter(seen)) continue;
    drain(worker);
    if ((state_.fetch_sub(1) & kInside) == 1 && waiting_.load()) {
      { std::lock_guard lock(mutex_); }
      done_.notify_one();
    }
  }
}

void ThreadPool::run(int64_t n, FunctionRef<void(int64_t, int)> fn) {
  if (n <= 0) return;
  HONE_CHECK(!running_.exchange(true), "a task calls run()");
  const Running running{running_};
  if (threads_.empty() || n == 1) {
    for (int64_t task = 0; task < n; ++task) fn(task, 0);
    return;
  }
  fn_ = &fn;
  n_ = n;
  error_ = nullptr;
  next_.store(0, std::memory_order_relaxed);
  state_.fetch_add(kGeneration + kOpen);
  wake_sleepers();
  drain(0);
  state_.fetch_sub(kOpen);  // who has not come yet is not needed any more
  const auto alone = [&] { return (state_.load() & kInside) == 0; };
  for (int spin = 0; spin < kSpins && !alone(); ++spin) spin_pause();
  if (!alone()) {
    std::unique_lock lock(mutex_);
    waiting_.store(true);
    done_.wait(lock, alone);
    waiting_.store(false);
  }
  fn_ = nullptr;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

int available_threads() {
  cpu_set_t set;
  int n = 1;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = std::max(1, CPU_COUNT(&set));
  // cgroup v2: "max 100000" or "200000 100000"
  if (FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    long quota = 0, period = 0;
    if (std::fscanf(f, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
      n = std::min(n, std::max(1, static_cast<int>((quota + period - 1) / period)));
    }
    std::fclose(f);
  }
  return n;
}

}  // namespace hone
