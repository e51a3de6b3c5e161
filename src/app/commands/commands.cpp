#include "app/commands/commands.h"

namespace hone::app {

void add_commands(Cli& cli) { add_sft(cli); }

}  // namespace hone::app
