// What computations share: memory, threads, kernels. Made once a rank, lent to any number of models
// and contexts.
#pragma once

#include <optional>

#include "exec/device.h"

namespace hone {

struct MachineOptions {
  int threads = 0;          // 0: all
  size_t memory_limit = 0;  // of tensors; 0: none
  // Shapes only: no memory is taken, nothing is computed.
  bool meta = false;
};

class Machine {
 public:
  explicit Machine(const MachineOptions& options, const Backend& backend = cpu_backend());
  Machine(const Machine&) = delete;  // devices point into it
  Machine& operator=(const Machine&) = delete;

  // The device for computations in a dtype; it lives as long as the machine. UserError as
  // Backend::path's.
  Device& device(DType compute);
  const KernelPath& path(DType compute);
  Arena& arena() { return arena_; }
  ThreadPool& pool() { return pool_; }
  bool meta() const { return meta_; }

 private:
  struct Computing {
    KernelPath path;
    Device device;
  };
  Computing& computing(DType compute);

  const Backend& backend_;
  bool meta_;
  int threads_;  // computed with, or planned for
  Arena arena_;
  ThreadPool pool_;
  std::optional<Computing> f64_, others_;  // f64 has kernels of its own
};

}  // namespace hone
