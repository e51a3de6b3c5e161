// A fixed set of threads. run() hands out tasks 0..n-1; tasks must write disjoint outputs, so that
// results do not depend on the number of threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/function_ref.h"

namespace hone {

class ThreadPool {
 public:
  // threads >= 1 counts the calling thread, which works too. RuntimeError where the system grants
  // fewer.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls fn(task, worker) for each task in [0, n), worker in [0, size()); returns when all are
  // done. Threads that the system lets wait are not waited for: the others do their share. Rethrows
  // the first exception of a task after the others have stopped. Not re-entrant: InternalError in
  // a task that calls it.
  void run(int64_t n, FunctionRef<void(int64_t task, int worker)> fn);

 private:
  void work(int worker);
  void drain(int worker);
  bool enter(uint64_t& seen);
  void wake_sleepers();
  void join();

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  const FunctionRef<void(int64_t, int)>* fn_ = nullptr;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> state_{0};    // generation, whether a run is open, workers in it
  std::atomic<int> asleep_{0};        // workers at wake_
  std::atomic<bool> waiting_{false};  // run() is at done_
  std::atomic<bool> stop_{false};
  std::atomic<bool> running_{false};
  int64_t n_ = 0;
  std::exception_ptr error_;
};

// Threads that this process may run on (its affinity mask and cgroup quota), at least 1.
int available_threads();

}  // namespace hone
