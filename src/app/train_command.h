// Runs and plans of trainers, as commands.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "app/cli.h"
#include "train/options_json.h"
#include "train/recipe.h"

namespace hone::app {

// A trainer as the command line asks for it.
struct TrainRequest {
  train::TrainerOptions& options;
  std::string config_file;                   // the configuration is also written here; "": nowhere
  std::vector<std::string> notes = {};       // one sentence each
  train::MakeRecipe make = {};               // from the options as they are then
  std::function<std::string()> config = {};  // the configuration as JSON
};

// Both return an exit code.
int run_trainer(TrainRequest request);
int plan_trainer(TrainRequest request, bool json);

// A trainer's command and that of its plan. Flags: its flags' values, with the options as .o.
template <class Flags>
struct TrainCommand {
  const char *name, *summary, *description;
  std::shared_ptr<Flags> (*add_flags)(Command& c);
  // After parsing: UserError; notes for people, one sentence each.
  std::vector<std::string> (*settle)(const Command& c, Flags& f, bool need_data);
  std::unique_ptr<train::Recipe> (*recipe)(const decltype(Flags::o)& options, Machine& machine,
                                           const train::Say& say);
};

template <class Flags>
TrainRequest request(const TrainCommand<Flags>& t, const Command& c, Flags& f, bool need_data) {
  TrainRequest r{.options = f.o, .config_file = f.common.config_file};
  r.notes = t.settle(c, f, need_data);
  r.make = [&o = f.o, recipe = t.recipe](Machine& machine, const train::Say& say) {
    return recipe(o, machine, say);
  };
  r.config = [&o = f.o] { return train::options_json(o).dump(2); };
  return r;
}

template <class Flags>
void add_trainer(Cli& cli, const TrainCommand<Flags>& t) {
  Command& c = cli.add(t.name, t.summary, t.description);
  const auto f = t.add_flags(c);
  c.run([&c, f, t] { return run_trainer(request(t, c, *f, /*need_data=*/true)); });
}

template <class Flags>
void add_plan(Cli& cli, const TrainCommand<Flags>& t) {
  Command& c = cli.add(
      std::string("plan ") + t.name,
      std::string("what hone ") + t.name + " with the same flags would need: memory, time, disk",
      "Runs the real step on shapes only. Needs config.json; headers of the "
      "weights are used if they are there.");
  c.group("Plan");
  const auto json = std::make_shared<bool>(false);
  c.flag("--json", *json, "Print JSON");
  const auto f = t.add_flags(c);
  c.run([&c, f, json, t] { return plan_trainer(request(t, c, *f, /*need_data=*/false), *json); });
}

}  // namespace hone::app
