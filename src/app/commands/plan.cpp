// hone plan sft: what a run would take, before anything is loaded.
#include "plan/plan.h"

#include "app/commands/commands.h"
#include "app/commands/sft_flags.h"
#include "app/pretrained.h"
#include "app/terminal.h"

namespace hone::app {

void add_plan(Cli& cli) {
  Command& c =
      cli.add("plan sft", "what hone sft with the same flags would need: memory, time, disk",
              "Runs the real step on shapes only. Needs config.json; headers of the "
              "weights are used if they are there.");
  c.group("Plan");
  const auto json = std::make_shared<bool>(false);
  c.flag("--json", *json, "Print JSON");
  const auto flags = add_sft_flags(c);
  c.run([&c, flags, json] {
    const SftRequest request = sft_request(c, *flags, /*need_data=*/false);
    check_pretrained(request.options.pretrained);
    for (const std::string& note : request.notes) say(note);
    const train::SftOptions options = plan::fit_memory(request.options);
    const plan::Plan p = plan::plan_sft(options);
    Output out;
    out.write(*json ? plan::to_json(p).dump(2) + "\n" : plan::to_text(p, options));
    out.finish();
    return 0;
  });
}

}  // namespace hone::app
