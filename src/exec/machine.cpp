#include "exec/machine.h"

namespace hone {

Machine::Machine(const MachineOptions& options, const Backend& backend)
    : backend_(backend),
      meta_(options.meta),
      threads_(options.threads > 0 ? options.threads : available_threads()),
      arena_(meta_ ? Arena::simulated(options.memory_limit) : Arena::real(options.memory_limit)),
      pool_(meta_ ? 1 : threads_) {}

Machine::Computing& Machine::computing(DType compute) {
  std::optional<Computing>& c = compute == DType::f64 ? f64_ : others_;
  if (!c) {
    c.emplace().path = backend_.path(compute);
    c->device = {.table = c->path.kernels,
                 .props = backend_.props(threads_),
                 .arena = &arena_,
                 .pool = &pool_,
                 .meta = meta_};
  }
  return *c;
}

Device& Machine::device(DType compute) { return computing(compute).device; }
const KernelPath& Machine::path(DType compute) { return computing(compute).path; }

}  // namespace hone
