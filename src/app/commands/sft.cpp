// hone sft: supervised fine-tuning; hone plan sft: what it would need.
#include "train/sft.h"

#include "app/commands/commands.h"
#include "app/commands/sft_flags.h"
#include "app/train_command.h"
#include "train/options_json.h"

namespace hone::app {
namespace {

TrainRequest request(const Command& c, SftFlags& f, bool need_data) {
  TrainRequest r{.options = f.o, .config_file = f.common.config_file};
  r.notes = settle_sft(c, f, need_data);
  r.make = [&o = f.o](Machine& machine, const train::Say& say) {
    return train::sft_recipe(o, machine, say);
  };
  r.config = [&o = f.o] { return train::options_json(o).dump(2); };
  return r;
}

}  // namespace

void add_sft(Cli& cli) {
  Command& c = cli.add("sft", "fine-tune a model on examples: LoRA or all weights",
                       "Loss counts exactly what the model must write: the assistant's words and "
                       "its end of turn.\nhone show tells token by token what that is.");
  const auto f = add_sft_flags(c);
  c.run([&c, f] { return run_trainer(request(c, *f, /*need_data=*/true)); });
}

void add_plan_sft(Cli& cli) {
  Command& c =
      cli.add("plan sft", "what hone sft with the same flags would need: memory, time, disk",
              "Runs the real step on shapes only. Needs config.json; headers of the "
              "weights are used if they are there.");
  c.group("Plan");
  const auto json = std::make_shared<bool>(false);
  c.flag("--json", *json, "Print JSON");
  const auto f = add_sft_flags(c);
  c.run([&c, f, json] { return plan_trainer(request(c, *f, /*need_data=*/false), *json); });
}

}  // namespace hone::app
