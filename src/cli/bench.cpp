// lockstep bench: how fast this machine and Lockstep are.
#include <fmt/format.h>

#include <cstdio>
#include <map>

#include "cli/commands.h"
#include "lockstep/error.h"
#include "train/nearest.h"
#include "world/launcher.h"

namespace lockstep {
namespace {

constexpr const char* kBenchUsage = R"(Usage: mpirun -n N lockstep bench COMMAND [OPTION...]

Commands:
  comm   all-reduce from 4 B to 256 MB, beside MPI's own
  step   phases of a training step, how much of its communication is hidden, and its operators

What 1 to N ranks bring is measured by the script benchmarks/scaling, since a job cannot change its number of ranks.
`lockstep bench COMMAND --help` lists a command's options. docs/benchmarks.md says what the columns mean.
)";

const std::map<std::string, int (*)(const Words&)>& commands() {
  static const std::map<std::string, int (*)(const Words&)> all = {{"comm", &bench_comm_command},
                                                                   {"step", &bench_step_command}};
  return all;
}

}  // namespace

int bench_command(const Words& words) {
  std::vector<std::string> names;
  for (const auto& [name, function] : commands()) names.push_back(name);
  const std::string hint = "all commands: lockstep bench --help";
  if (words.empty()) throw Error(ExitCode::usage, "`lockstep bench` needs a command", hint);
  if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    if (launcher_rank() == 0) std::fputs(kBenchUsage, stdout);
    return 0;
  }
  const auto command = commands().find(words[0]);
  if (command == commands().end()) {
    throw Error(ExitCode::usage, fmt::format("`lockstep bench` has no command '{}'", words[0]),
                did_you_mean(words[0], names) + hint);
  }
  return command->second(Words(words.begin() + 1, words.end()));
}

}  // namespace lockstep
