// The commands of hone, one file each.
#pragma once

#include "app/cli.h"

namespace hone::app {

// In the order of the help page.
void add_commands(Cli& cli);

void add_sft(Cli& cli);
void add_plan_sft(Cli& cli);
void add_dpo(Cli& cli);
void add_plan_dpo(Cli& cli);
void add_kto(Cli& cli);
void add_plan_kto(Cli& cli);
void add_bench(Cli& cli);
void add_chat(Cli& cli);
void add_generate(Cli& cli);
void add_score(Cli& cli);
void add_logits(Cli& cli);
void add_merge(Cli& cli);
void add_convert(Cli& cli);
void add_show(Cli& cli);
void add_tokenize(Cli& cli);
void add_init(Cli& cli);
void add_tokenizer(Cli& cli);
void add_loss(Cli& cli);

}  // namespace hone::app
