#include "core/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include <vector>
#include "core/error.h"

namespace hone {
namespace {

// Every task runs once, and what the tasks wrote is there when run() returns; runs follow each
// other at once (workers still spin) or after a pause (workers are asleep).
TEST(ThreadPool, EveryTaskOnceInEveryRun) {
  for (const int threads : {1, 2, 3, 6}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    std::vector<int64_t> counts(97);
    for (int round = 0; round < 400; ++round) {
      const int64_t n = round % static_cast<int64_t>(counts.size() + 1);
      std::fill(counts.begin(), counts.end(), 0);
      std::atomic<int> strangers{0};
      pool.run(n, [&](int64_t task, int worker) {
        // every other round, long enough for the workers to come
        const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(2);
        while (round % 2 == 1 && std::chrono::steady_clock::now() < until) continue;
        ++counts[static_cast<size_t>(task)];
        if (worker < 0 || worker >= threads) ++strangers;
      });
      for (size_t i = 0; i < counts.size(); ++i)
        ASSERT_EQ(counts[i], static_cast<int64_t>(i) < n ? 1 : 0) << "round " << round;
      ASSERT_EQ(strangers.load(), 0);
      if (round % 50 == 49) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    }
  }
}

// The first error reaches the caller, and the pool goes on working.
TEST(ThreadPool, ErrorsReachTheCaller) {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    EXPECT_THROW(pool.run(20,
                          [&](int64_t task, int) {
                            if (task % 7 == round % 7) throw std::runtime_error("task");
                          }),
                 std::runtime_error);
    std::atomic<int64_t> sum{0};
    pool.run(20, [&](int64_t task, int) { sum += task; });
    EXPECT_EQ(sum.load(), 190);
  }
}

// Pools that end while their workers spin, sleep, or have never run.
TEST(ThreadPool, EndsAtAnyMoment) {
  for (int i = 0; i < 6000; ++i) {
    ThreadPool pool(2 + i % 3);
    if (i % 3 > 0) pool.run(5, [](int64_t, int) {});
    if (i % 100 == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// On a machine that has other work: four threads on one core, a run that finds its workers asleep
// or waiting for their turn must not wait for them.
TEST(ThreadPool, DoesNotWaitForThreadsThatWait) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  CPU_ZERO(&one);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &before)) ++cpu;
  CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  {
    ThreadPool pool(4);
    const auto begin = std::chrono::steady_clock::now();
    std::atomic<int64_t> sum{0};
    for (int round = 0; round < 20000; ++round)
      pool.run(4, [&](int64_t task, int) { sum += task; });
    EXPECT_EQ(sum.load(), 20000 * 6);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    EXPECT_LT(took.count(), 10) << "seconds";
    RecordProperty("milliseconds", static_cast<int>(took.count() * 1000));
  }
  sched_setaffinity(0, sizeof before, &before);
}

TEST(ThreadPool, ARunInsideATaskIsAnError) {
  ThreadPool pool(2);
  for (const int64_t n : {1, 4}) {
    EXPECT_THROW(pool.run(n, [&](int64_t, int) { pool.run(1, [](int64_t, int) {}); }),
                 InternalError);
    int64_t done = 0;  // usable afterwards
    pool.run(1, [&](int64_t, int) { ++done; });
    EXPECT_EQ(done, 1);
  }
}

// Where the system refuses a thread the constructor says how many it got. In a child: the limit is
// of the whole process.
TEST(ThreadPool, RefusedThreadsAreCounted) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(20);
    // Stacks of 8 MiB each, in the address space that there is and 100 MiB more.
    long pages = 0;
    if (std::FILE* f = std::fopen("/proc/self/statm", "r")) {
      if (std::fscanf(f, "%ld", &pages) != 1) pages = 0;
      std::fclose(f);
    }
    const auto limit = static_cast<rlim_t>(pages) * 4096 + (rlim_t{100} << 20);
    const struct rlimit address_space { limit, limit };
    if (::setrlimit(RLIMIT_AS, &address_space) != 0) ::_exit(3);
    try {
      ThreadPool pool(200);
      ::_exit(4);
    } catch (const RuntimeError& e) {
      const std::string text = e.what();
      ::_exit(text.find("of 200 threads") != std::string::npos &&
                      text.find("use --threads ") != std::string::npos
                  ? 0
                  : 5);
    }
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace hone
