#include "app/commands/sft_flags.h"

#include "app/option_flags.h"
#include "core/error.h"

namespace hone::app {

std::shared_ptr<SftFlags> add_sft_flags(Command& c) {
  auto f = std::make_shared<SftFlags>();
  add_flags<train::ModelOptions>(c, "Model and data", f->o);
  add_flags<train::DataOptions>(c, "Model and data", f->o);
  add_flags<train::SftDataOptions>(c, "Model and data", f->o);
  add_run_flags(c, f->o, f->common);
  c.flag("--disable_loss_mask", f->disable_loss_mask, "The same as --train_on all");
  add_common_flags(c, f->common);
  return f;
}

std::vector<std::string> settle_sft(const Command& c, SftFlags& f, bool need_data) {
  std::vector<std::string> notes = settle_options(c, f.common, f.o, need_data);
  if (f.disable_loss_mask) {
    if (c.given("--train_on") && f.o.train_on != TrainOn::kAll)
      user_error("flags",
                 "--disable_loss_mask and --train_on {} contradict each other; use --train_on",
                 train::word_of(f.o.train_on));
    f.o.train_on = TrainOn::kAll;
  }
  return notes;
}

}  // namespace hone::app
