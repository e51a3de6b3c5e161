// What this machine does: products on a model's own shapes, memory bandwidth, and a training step
// against that floor, operation by operation.
#pragma once

#include <functional>
#include <string>

#include "plan/plan.h"

namespace hone::plan {

struct BenchOptions {
  std::string pretrained;  // folder with config.json; weights are random, the file's are not read
  DType dtype = DType::bf16;
  int threads = 0;
  int64_t tokens = 2048;  // of the micro-batch
  int64_t length = 256;   // of its sequences
  int64_t lora_rank = 8;  // 0: full tuning
  bool recompute = true;
  std::string trace;  // Chrome trace is written here
};

struct BenchResult {
  MachineRates rates;
  double step_seconds = 0, product_flops = 0;
  int64_t tokens = 0;
  double fraction = 0;  // of the GEMM rate, over the whole step
};

// Prints lines as they are known; saves the machine's rates for the planner.
BenchResult run_bench(const BenchOptions& options,
                      const std::function<void(const std::string&)>& print);

}  // namespace hone::plan
