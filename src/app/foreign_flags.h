// Flags by the names that other trainers give them (TRL and transformers' TrainingArguments, PEFT
// recipes, LLaMA-Factory, axolotl, torchtune, lm-eval): the same meaning acts under its own name
// here, everything else is told what to use instead.
#pragma once

#include <string>
#include <string_view>

namespace hone::app {

struct ForeignFlag {
  std::string_view name;      // without dashes
  std::string_view ours;      // the flag of the same meaning, with dashes; "": there is none
  std::string_view sentence;  // what to do, where there is none, or the command hasn't got it
};

// Null for a name nobody is known to use. name: without dashes, '-' as '_'.
const ForeignFlag* find_foreign_flag(std::string_view name);

}  // namespace hone::app
