#include "core/process.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace hone {
namespace {

size_t kib_field(const char* path, const char* field) {
  FILE* f = std::fopen(path, "r");
  if (f == nullptr) return 0;
  char line[256];
  size_t kib = 0;
  const size_t n = std::strlen(field);
  while (std::fgets(line, sizeof line, f) != nullptr) {
    if (std::strncmp(line, field, n) == 0) {
      std::sscanf(line + n, " %zu", &kib);
      break;
    }
  }
  std::fclose(f);
  return kib << 10;
}

size_t number_in(const char* path) {
  FILE* f = std::fopen(path, "r");
  if (f == nullptr) return 0;
  size_t n = 0;
  if (std::fscanf(f, "%zu", &n) != 1) n = 0;
  std::fclose(f);
  return n;
}

}  // namespace

size_t peak_rss() { return kib_field("/proc/self/status", "VmHWM:"); }
size_t current_rss() { return kib_field("/proc/self/status", "VmRSS:"); }

bool reset_peak_rss() {
  FILE* f = std::fopen("/proc/self/clear_refs", "w");
  if (f == nullptr) return false;
  const bool ok = std::fputs("5", f) >= 0;
  return std::fclose(f) == 0 && ok;
}

long major_faults() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_majflt : 0;
}

size_t available_memory() {
  size_t n = kib_field("/proc/meminfo", "MemAvailable:");
  if (const size_t limit = number_in("/sys/fs/cgroup/memory.max"); limit != 0) {
    const size_t used = number_in("/sys/fs/cgroup/memory.current");
    n = std::min(n, limit > used ? limit - used : size_t{1});
  }
  // The first version of cgroups.
  if (const size_t limit = number_in("/sys/fs/cgroup/memory/memory.limit_in_bytes"); limit != 0) {
    const size_t used = number_in("/sys/fs/cgroup/memory/memory.usage_in_bytes");
    n = std::min(n, limit > used ? limit - used : size_t{1});
  }
  return n;
}

}  // namespace hone
