// hone dpo: preference optimisation on pairs; hone plan dpo: what it would need.
#include "train/dpo.h"

#include "app/commands/commands.h"
#include "app/option_flags.h"
#include "app/train_command.h"
#include "app/train_flags.h"
#include "app/units.h"
#include "core/error.h"

namespace hone::app {
namespace {

struct DpoFlags {
  train::DpoOptions o;
  TrainFlags common;
  // Of the original's train_dpo.py and train_orpo.py.
  double gamma = 0, lam = 0.1;
  int64_t ref_tp = 1;
  bool length_normalization = false, disable_reference_model = false, disable_loss_mask = false;
};

void add_original(Command& c, DpoFlags& f) {
  c.flag("--gamma", f.gamma, "The same as --simpo_gamma");
  c.flag("--lam", f.lam, "The same as --beta, with --loss orpo");
  c.flag("--ref_tp", f.ref_tp, "Tensor parallel size of the reference: 1");
  c.flag("--length_normalization", f.length_normalization, "Not here: use --loss sigmoid_norm");
  c.flag("--disable_reference_model", f.disable_reference_model,
         "Not here: use a loss without reference, such as simpo");
  c.flag("--disable_loss_mask", f.disable_loss_mask, "Not here: answers alone are compared");
}

// Their meaning, by our names.
void settle_original(const Command& c, DpoFlags& f) {
  train::DpoOptions& o = f.o;
  for (std::string& loss : o.loss) {
    if (loss == "dpo_loss") loss = "sigmoid";
    if (loss == "simpo_loss") loss = "simpo";
  }
  const bool simpo = o.loss == std::vector<std::string>{"simpo"};
  if (f.ref_tp != 1)
    user_error("flags", "--ref_tp {}: this version runs as one process; leave the flag out",
               f.ref_tp);
  if (f.length_normalization && !simpo)
    user_error("flags",
               "--length_normalization: use --loss sigmoid_norm, which is DPO with means over "
               "tokens, or --loss simpo");
  if (f.disable_reference_model && !simpo)
    user_error("flags",
               "--disable_reference_model: use --loss simpo, cpo or orpo, which need no reference");
  if (f.disable_loss_mask)
    user_error("flags",
               "--disable_loss_mask: what both sides share can't be preferred; leave it "
               "out");
  if (c.given("--gamma") && f.gamma != 0) {
    if (!simpo) user_error("flags", "--gamma {}: only --loss simpo has a margin", f.gamma);
    if (c.given("--simpo_gamma") && o.simpo_gamma != f.gamma)
      user_error("flags", "--gamma and --simpo_gamma contradict each other; use --simpo_gamma");
    o.simpo_gamma = f.gamma;
  }
  if (c.given("--lam")) {
    if (o.loss != std::vector<std::string>{"orpo"})
      user_error("flags", "--lam {}: it is of --loss orpo; use --beta", f.lam);
    if (c.given("--beta") && o.beta != f.lam)
      user_error("flags", "--lam and --beta contradict each other; use --beta");
    o.beta = f.lam;
  }
}

std::shared_ptr<DpoFlags> add_dpo_flags(Command& c) {
  auto f = std::make_shared<DpoFlags>();
  add_flags<train::ModelOptions>(c, "Model and data", f->o);
  add_flags<train::DataOptions>(c, "Model and data", f->o);
  add_flags<train::PairLossOptions>(c, "Loss", f->o);
  add_run_flags(c, f->o, f->common);
  add_original(c, *f);
  add_common_flags(c, f->common);
  return f;
}

std::vector<std::string> settle(const Command& c, DpoFlags& f, bool need_data) {
  std::vector<std::string> notes = settle_options(c, f.common, f.o, need_data);
  f.o.loss = comma_list(f.o.loss);
  settle_original(c, f);
  return notes;
}

const TrainCommand<DpoFlags> kDpo = {
    .name = "dpo",
    .summary = "preference optimisation on pairs of a better and a worse answer",
    .description =
        "DPO and its family, CPO, SimPO and ORPO. A record is {\"prompt\", "
        "\"chosen\", \"rejected\"}, texts or messages.\nLosses and metrics have "
        "TRL's names; docs/preference.md tells what each means.",
    .add_flags = add_dpo_flags,
    .settle = settle,
    .recipe = train::dpo_recipe};

}  // namespace

void add_dpo(Cli& cli) { add_trainer(cli, kDpo); }
void add_plan_dpo(Cli& cli) { add_plan(cli, kDpo); }

}  // namespace hone::app
