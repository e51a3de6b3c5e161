// Reverse-mode differentiation in two phases: a node's closure computes input gradients now and
// defers weight gradients to a first-in-first-out queue, so that accumulation into leaves is in the
// same order under every schedule.
#pragma once

#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace hone {

class Tape {
 public:
  using Step = std::function<void(Tape&)>;

  // outer: the tape whose node records and runs this one; deferred work is queued there. It must
  // outlive this one.
  explicit Tape(Tape* outer = nullptr) : outer_(outer) {}

  // A new gradient slot, for one intermediate tensor.
  int new_slot() {
    slots_.emplace_back();
    return static_cast<int>(slots_.size()) - 1;
  }
  // Appends a node. It runs once, in reverse order, and is dropped (with all it saved) as soon as
  // it has run.
  void record(Step backward) { nodes_.push_back(std::move(backward)); }

  // The gradient that has reached a slot; undefined handle if none. take() leaves the slot empty.
  const Tensor& grad(int slot) const { return slots_[static_cast<size_t>(slot)]; }
  Tensor take(int slot) { return std::exchange(slots_[static_cast<size_t>(slot)], Tensor()); }
  // First write of a gradient: adopts the handle (shared storage is fine; see writable()).
  void assign(int slot, Tensor grad) { slots_[static_cast<size_t>(slot)] = std::move(grad); }

  // Queues work on leaves. It may run after the node, the tape and the context that queued it are
  // gone: it holds what it needs.
  void defer(std::function<void()> work) {
    if (outer_ != nullptr) return outer_->defer(std::move(work));
    deferred_.push_back(std::move(work));
    if (!hold_) flush();
  }
  // Runs what is queued, oldest first.
  void flush() {
    while (!deferred_.empty()) {
      const auto work = std::move(deferred_.front());
      deferred_.pop_front();
      work();
    }
  }
  // Holds deferred work until flush(): for schedules that overlap it with something. Default: it
  // runs at once, which frees memory earliest.
  void hold_deferred(bool hold) { hold_ = hold; }

  // Runs all nodes in reverse, then what is still queued.
  void backward() {
    while (!nodes_.empty()) {
      const Step step = std::move(nodes_.back());
      nodes_.pop_back();
      step(*this);
    }
    flush();
  }
  bool empty() const { return nodes_.empty(); }

 private:
  std::vector<Tensor> slots_;
  std::vector<Step> nodes_;
  std::deque<std::function<void()>> deferred_;
  bool hold_ = false;
  Tape* outer_;
};

}  // namespace hone
