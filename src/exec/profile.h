// A profile of kernel launches: time, work and traffic by operation, as a table for people and as a
// Chrome trace.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "exec/context.h"

namespace hone {

class Profiler final : public Observer {
 public:
  void before(KernelId id, const char* label, const Cost& cost) override;
  void after() override;

  struct Row {
    std::string name;  // "gemm mlp.down"
    KernelId id = KernelId::gemm;
    int64_t calls = 0;
    double seconds = 0, flops = 0, bytes = 0;
  };
  // By falling time.
  std::vector<Row> rows() const;
  double kernel_seconds() const;
  double span_seconds() const;  // from the first launch to the end of the last
  // The table; floor of a row: flops / gemm_rate for matrix products (0: left out), bytes /
  // bandwidth for the rest.
  std::string table(double gemm_rate, double bandwidth) const;
  // The trace format of chrome://tracing and Perfetto, one event a launch.
  std::string chrome_trace() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Event {
    KernelId id;
    const char* label;
    double begin, end;  // seconds since the first launch
    Cost cost;
  };
  std::vector<Event> events_;
  Clock::time_point origin_;
};

// Matrix products: what a GEMM rate is the floor of.
bool is_product(KernelId id);

}  // namespace hone
