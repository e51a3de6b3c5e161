// The planned peak against the measured one, over whole runs of the binary.
#include <cmath>
#include <cstdio>

#include "plan_run.h"

namespace hone {
namespace {

using namespace plan_test;

// Micro-batches filled to the budget: the plan's case.
TEST(PlanMatrix, PlannedPeakIsMeasuredPeak) {
  struct Size {
    const char* name;
    int64_t hidden, layers, vocab;
  };
  TempFolder folder;
  std::printf("%-6s %-5s %-5s %-9s %6s %12s %12s %8s\n", "size", "dtype", "tune", "policy",
              "length", "planned MB", "measured MB", "error");
  double worst = 0;
  for (const Size& size : {Size{"small", 256, 4, 8192}, Size{"large", 512, 8, 32768}}) {
    for (const std::string dtype : {"bf16", "fp32"}) {
      const std::string model = make_model(folder, size.name + ("-" + dtype), size.hidden,
                                           size.layers, size.vocab, dtype);
      for (const int64_t length : {128, 512}) {
        const int64_t each = 1024 / length;  // samples a micro-batch
        const std::string data = make_tokens(folder, 2 * 2 * each, length);
        for (const bool lora : {true, false}) {
          for (const bool recompute : {true, false}) {
            std::vector<std::string> flags = {"--pretrained",
                                              model,
                                              "--dataset",
                                              data,
                                              "--dtype",
                                              dtype,
                                              "--max_length",
                                              std::to_string(length),
                                              "--micro_batch_tokens",
                                              std::to_string(each * (length - 1)),
                                              "--batch_size",
                                              std::to_string(2 * each),
                                              "--lora_rank",
                                              lora ? "8" : "0",
                                              "--overwrite",
                                              "--save_dir",
                                              folder / "run"};
            if (recompute) flags.push_back("-g");
            auto plan_args = flags, sft_args = flags;
            plan_args.insert(plan_args.begin(), {"plan", "sft", "--json"});
            sft_args.insert(sft_args.begin(), "sft");
            const Ran planned = run_hone(plan_args, folder);
            ASSERT_EQ(planned.code, 0) << planned.text;
            const auto p = static_cast<double>(Json::parse(planned.text)["peak_memory"]);
            const Ran ran = run_hone(sft_args, folder);
            ASSERT_EQ(ran.code, 0) << ran.text;
            const auto m = static_cast<double>(ran.peak);
            std::printf("%-6s %-5s %-5s %-9s %6ld %12.1f %12.1f %+7.1f%%\n", size.name,
                        dtype.c_str(), lora ? "lora" : "full", recompute ? "recompute" : "keep",
                        static_cast<long>(length), p / 1e6, m / 1e6, 100 * (p - m) / m);
            std::fflush(stdout);
            worst = std::max(worst, std::fabs(p - m) / m);
            EXPECT_LE(std::fabs(p - m), tolerance(ran.peak));
          }
        }
      }
    }
  }
  std::printf("largest error %.1f%%\n", 100 * worst);
}

}  // namespace
}  // namespace hone
