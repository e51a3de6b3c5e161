// hone sft: supervised fine-tuning; hone plan sft: what it would need.
#include "train/sft.h"

#include "app/commands/commands.h"
#include "app/commands/sft_flags.h"
#include "app/train_command.h"

namespace hone::app {
namespace {

const TrainCommand<SftFlags> kSft = {
    .name = "sft",
    .summary = "fine-tune a model on examples: LoRA or all weights",
    .description =
        "Loss counts exactly what the model must write: the assistant's words and "
        "its end of turn.\nhone show tells token by token what that is.",
    .add_flags = add_sft_flags,
    .settle = settle_sft,
    .recipe = train::sft_recipe};

}  // namespace

void add_sft(Cli& cli) { add_trainer(cli, kSft); }
void add_plan_sft(Cli& cli) { add_plan(cli, kSft); }

}  // namespace hone::app
