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

// Only what a signal handler may call.
void on_lost_page(int signal, siginfo_t* info, void*) {
  if (info->si_code != BUS_ADRERR) {  // not of a file: what it would have been without us
    ::signal(signal, SIG_DFL);
    ::raise(signal);
    return;
  }
  constexpr char kText[] =
      "error: [file] a file in use (weights, or prepared data) became shorter while it was read, "
      "or its disk failed; put it right and run again\n";
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, kText, sizeof kText - 1);
  ::_exit(1);
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

void report_lost_files() {
  struct sigaction action {};
  action.sa_sigaction = on_lost_page;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

int interrupt_exit_code() { return 128 + g_interrupted.load(); }

void ignore_closed_pipes() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is then an error of the write
}

}  // namespace hone::app
