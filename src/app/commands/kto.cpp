// hone kto: optimisation on answers labelled good or bad; hone plan kto: what it would need.
#include "train/kto.h"

#include "app/commands/commands.h"
#include "app/option_flags.h"
#include "app/train_command.h"
#include "app/train_flags.h"
#include "core/error.h"
#include "train/options_json.h"

namespace hone::app {
namespace {

struct KtoFlags {
  train::KtoOptions o;
  TrainFlags common;
  // Of the original's train_kto.py.
  int64_t ref_tp = 1;
  bool auto_weight = false, disable_loss_mask = false;
};

std::shared_ptr<KtoFlags> add_kto_flags(Command& c) {
  auto f = std::make_shared<KtoFlags>();
  add_flags<train::ModelOptions>(c, "Model and data", f->o);
  add_flags<train::DataOptions>(c, "Model and data", f->o);
  add_flags<train::LabelLossOptions>(c, "Loss", f->o);
  add_run_flags(c, f->o, f->common);
  c.flag("--ref_tp", f->ref_tp, "Tensor parallel size of the reference: 1");
  c.flag("--auto_weight", f->auto_weight, "Not here: use --desirable_weight");
  c.flag("--disable_loss_mask", f->disable_loss_mask, "Not here: answers alone are judged");
  add_common_flags(c, f->common);
  return f;
}

TrainRequest request(const Command& c, KtoFlags& f, bool need_data) {
  TrainRequest r{.options = f.o, .config_file = f.common.config_file};
  r.notes = settle_options(c, f.common, f.o, need_data);
  if (f.ref_tp != 1)
    user_error("flags", "--ref_tp {}: this version runs as one process; leave the flag out",
               f.ref_tp);
  if (f.auto_weight)
    user_error("flags",
               "--auto_weight: say yourself what answers labelled true count, so that "
               "desirable_weight x their number is 1 to 1.33 times undesirable_weight x the "
               "others': use --desirable_weight");
  if (f.disable_loss_mask)
    user_error("flags", "--disable_loss_mask: a prompt can't be judged; leave it out");
  r.make = [&o = f.o](Machine& machine, const train::Say& say) {
    return train::kto_recipe(o, machine, say);
  };
  r.config = [&o = f.o] { return train::options_json(o).dump(2); };
  return r;
}

}  // namespace

void add_kto(Cli& cli) {
  Command& c = cli.add("kto", "preference optimisation on answers labelled good or bad",
                       "A record is {\"prompt\", \"completion\", \"label\": true or false}, or "
                       "a conversation with a label.\ndocs/preference.md tells more.");
  const auto f = add_kto_flags(c);
  c.run([&c, f] { return run_trainer(request(c, *f, /*need_data=*/true)); });
}

void add_plan_kto(Cli& cli) {
  Command& c =
      cli.add("plan kto", "what hone kto with the same flags would need: memory, time, disk",
              "Runs the real step on shapes only. Needs config.json; headers of the "
              "weights are used if they are there.");
  c.group("Plan");
  const auto json = std::make_shared<bool>(false);
  c.flag("--json", *json, "Print JSON");
  const auto f = add_kto_flags(c);
  c.run([&c, f, json] { return plan_trainer(request(c, *f, /*need_data=*/false), *json); });
}

}  // namespace hone::app
