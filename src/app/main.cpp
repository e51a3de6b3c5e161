#include "app/cli.h"
#include "app/commands/commands.h"
#include "app/interrupt.h"

int main(int argc, char** argv) {
  hone::app::ignore_closed_pipes();
  hone::app::report_lost_files();
  hone::app::Cli cli;
  hone::app::add_commands(cli);
  return hone::app::run_guarded(cli, {argv + (argc > 0 ? 1 : 0), argv + argc});
}
