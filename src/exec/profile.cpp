#include "exec/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace hone {

bool is_product(KernelId id) {
  return id == KernelId::gemm || id == KernelId::gemm_dw || id == KernelId::head ||
         id == KernelId::head_backward;
}

void Profiler::before(KernelId id, const char* label, const Cost& cost) {
  const auto now = Clock::now();
  if (events_.empty()) origin_ = now;
  events_.push_back({id, label, std::chrono::duration<double>(now - origin_).count(), 0, cost});
}

void Profiler::after() {
  events_.back().end = std::chrono::duration<double>(Clock::now() - origin_).count();
}

std::vector<Profiler::Row> Profiler::rows() const {
  std::map<std::string, Row> by_name;
  for (const Event& e : events_) {
    std::string name = kernel_name(e.id);
    if (*e.label != '\0' && name != e.label) name += std::string(" ") + e.label;
    Row& r = by_name[name];
    r.name = name;
    r.id = e.id;
    ++r.calls;
    r.seconds += e.end - e.begin;
    r.flops += e.cost.flops;
    r.bytes += e.cost.bytes;
  }
  std::vector<Row> rows;
  for (auto& [name, row] : by_name) rows.push_back(row);
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  return rows;
}

double Profiler::kernel_seconds() const {
  double s = 0;
  for (const Event& e : events_) s += e.end - e.begin;
  return s;
}

double Profiler::span_seconds() const { return events_.empty() ? 0 : events_.back().end; }

std::string Profiler::table(double gemm_rate, double bandwidth) const {
  std::string s = fmt::format("{:<34} {:>6} {:>9} {:>6} {:>9} {:>7} {:>7}\n", "operation", "calls",
                              "ms", "share", "GFLOP/s", "GB/s", "floor");
  const double span = span_seconds(), kernels = kernel_seconds();
  for (const Row& r : rows()) {
    double floor = 0;
    if (bandwidth > 0) floor = r.bytes / bandwidth;
    if (is_product(r.id) && gemm_rate > 0) floor = std::max(floor, r.flops / gemm_rate);
    s += fmt::format("{:<34} {:>6} {:>9.2f} {:>5.1f}% {:>9.1f} {:>7.1f} {:>6.0f}%\n", r.name,
                     r.calls, r.seconds * 1e3, 100 * r.seconds / span, r.flops / r.seconds / 1e9,
                     r.bytes / r.seconds / 1e9, 100 * floor / r.seconds);
  }
  s += fmt::format("{:<34} {:>6} {:>9.2f} {:>5.1f}%\n", "outside of kernels", "",
                   (span - kernels) * 1e3, 100 * (span - kernels) / span);
  return s;
}

std::string Profiler::chrome_trace() const {
  std::string s = "{\"traceEvents\":[\n";
  for (size_t i = 0; i < events_.size(); ++i) {
    const Event& e = events_[i];
    s += fmt::format(
        "{}{{\"name\":\"{} "
        "{}\",\"cat\":\"{}\",\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":{:.3f},\"dur\":{:.3f},"
        "\"args\":{{\"gflop\":{:.6f},\"mbytes\":{:.6f}}}}}",
        i == 0 ? "" : ",\n", kernel_name(e.id), e.label, kernel_name(e.id), e.begin * 1e6,
        (e.end - e.begin) * 1e6, e.cost.flops / 1e9, e.cost.bytes / 1e6);
  }
  return s + "\n]}\n";
}

}  // namespace hone
