// Facts of the running process.
#pragma once

#include <cstddef>

namespace hone {

// Peak and current resident set in bytes, mapped pages included (VmHWM and VmRSS of
// /proc/self/status); 0 where unknown.
size_t peak_rss();
size_t current_rss();
// Starts a new measurement of the peak (needs write access to /proc/self/clear_refs); false if the
// system refuses.
bool reset_peak_rss();
// Major page faults so far.
long major_faults();
// Memory that this process may use: the smaller of the machine's available memory and its cgroup's
// limit. 0 where unknown.
size_t available_memory();

}  // namespace hone
