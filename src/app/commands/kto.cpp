// hone kto: optimisation on answers labelled good or bad; hone plan kto: what it would need.
#include "train/kto.h"

#include "app/commands/commands.h"
#include "app/option_flags.h"
#include "app/train_command.h"
#include "app/train_flags.h"
#include "core/error.h"

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

std::vector<std::string> settle(const Command& c, KtoFlags& f, bool need_data) {
  std::vector<std::string> notes = settle_options(c, f.common, f.o, need_data);
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
  return notes;
}

const TrainCommand<KtoFlags> kKto = {
    .name = "kto",
    .summary = "preference optimisation on answers labelled good or bad",
    .description =
        "A record is {\"prompt\", \"completion\", \"label\": true or false}, or "
        "a conversation with a label.\ndocs/preference.md tells more.",
    .add_flags = add_kto_flags,
    .settle = settle,
    .recipe = train::kto_recipe};

}  // namespace

void add_kto(Cli& cli) { add_trainer(cli, kKto); }
void add_plan_kto(Cli& cli) { add_plan(cli, kKto); }

}  // namespace hone::app
