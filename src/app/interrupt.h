// Ctrl-C and termination.
#pragma once

#include <atomic>

namespace hone::app {

// From here on the first SIGINT or SIGTERM sets the flag and the second ends the program at once.
// Also: writing to a closed pipe is an error, not a signal.
const std::atomic<int>& watch_interrupts();
// 130 after SIGINT, 143 after SIGTERM.
int interrupt_exit_code();
void ignore_closed_pipes();
// A mapped file that has become shorter, or that its disk fails to give, ends the program with a
// line that says so, and exit code 1.
void report_lost_files();

}  // namespace hone::app
