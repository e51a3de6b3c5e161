#include "app/commands/commands.h"

namespace hone::app {

void add_commands(Cli& cli) {
  add_sft(cli);
  add_dpo(cli);
  add_kto(cli);
  add_plan_sft(cli);
  add_plan_dpo(cli);
  add_plan_kto(cli);
  add_bench(cli);
  add_chat(cli);
  add_generate(cli);
  add_score(cli);
  add_logits(cli);
  add_merge(cli);
  add_convert(cli);
  add_show(cli);
  add_tokenize(cli);
  add_init(cli);
  add_tokenizer(cli);
  add_loss(cli);
}

}  // namespace hone::app
