// A hint to the processor that this thread waits in a loop, on every architecture.
#pragma once

namespace hone {

inline void spin_pause() {
#if defined(__x86_64__) || defined(__i386__)
  __asm__ volatile("pause");
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // yield is nothing on most of them
#endif
}

}  // namespace hone
