// hone bench: the machine on a model's shapes, and a training step against it.
#include "plan/bench.h"

#include "app/commands/commands.h"
#include "app/pretrained.h"
#include "app/terminal.h"
#include "app/units.h"
#include "core/error.h"

namespace hone::app {

void add_bench(Cli& cli) {
  Command& c = cli.add("bench", "measure this machine on a model's shapes, and a step against it",
                       "Needs config.json; weights are random. The rates are kept for hone plan.");
  const auto o = std::make_shared<plan::BenchOptions>();
  const auto dtype = std::make_shared<std::string>("bf16");
  const auto keep = std::make_shared<bool>(false);
  c.group("Model");
  c.flag("-m,--pretrained,--pretrain", o->pretrained, "Folder with config.json", "DIR");
  c.flag("--dtype", *dtype, "What to compute in", "bf16|fp32");
  c.group("Step");
  c.flag("--tokens", o->tokens, "Tokens of the micro-batch");
  c.flag("--length", o->length, "Tokens of its sequences");
  c.flag("--lora_rank", o->lora_rank, "Rank of the adapter; 0: full tuning");
  c.flag("--keep_activations", *keep, "Without recomputation of the blocks in backward");
  c.flag("--threads", o->threads, "Threads; 0: all cores");
  c.flag("--trace", o->trace, "Write a Chrome trace of the step here", "FILE");
  c.run([o, dtype, keep] {
    check_pretrained(o->pretrained);
    o->dtype = parse_dtype("--dtype", *dtype).value_or(DType::bf16);
    o->recompute = !*keep;
    Output out;
    plan::run_bench(*o, [&](const std::string& line) {
      out.write(line + "\n");
      out.flush();
    });
    out.finish();
    return 0;
  });
}

}  // namespace hone::app
