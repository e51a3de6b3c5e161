#include "app/interrupt.h"

#include <unistd.h>
#include <csignal>

namespace hone::app {
namespace {

// Signal handlers can reach nothing but globals.
std::atomic<int> g_interrupted{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_signal(int signal) {
  int expected = 0;
  if (!g_interrupted.compare_exchange_strong(expected, signal)) ::_exit(128 + signal);
}

}  // namespace

const std::atomic<int>& watch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  return g_interrupted;
}

int interrupt_exit_code() { return 128 + g_interrupted.load(); }

void ignore_closed_pipes() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is then an error of the write
}

}  // namespace hone::app
