// The command `lockstep`.
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string_view>

#include "cli/commands.h"
#include "cli/report.h"
#include "lockstep/memory.h"
#include "lockstep/version.h"
#include "lockstep/world.h"
#include "train/nearest.h"
#include "world/last_words.h"
#include "world/launcher.h"
#include "world/stop_request.h"

namespace {

// The functions of .preinit_array run before the libraries' own start, which takes LibTorch some tenths of a second: a
// signal that comes meanwhile is held until main is ready for it. A bare system call, since not even a sanitizer has
// started here.
constexpr uint64_t bit(int signal) { return uint64_t{1} << (signal - 1); }
const uint64_t held_signals = bit(SIGTERM) | bit(SIGINT) | bit(SIGUSR1);
void hold_signals(int, char**, char**) {
  syscall(SYS_rt_sigprocmask, SIG_BLOCK, &held_signals, nullptr, sizeof held_signals);
}
[[gnu::section(".preinit_array"), gnu::used]] void (*const at_first)(int, char**, char**) = &hold_signals;

using lockstep::Words;

constexpr const char* kUsage = R"(Lockstep trains LibTorch models in parallel over MPI ranks.

  lockstep train      train a network on CIFAR-10
  lockstep evaluate   exact test loss and accuracy of a run or a file of weights
  lockstep info       what a run or a file of weights holds
  lockstep data       get, check or make the data set
  lockstep bench      how fast the ranks communicate
  lockstep --version  versions of Lockstep, LibTorch, MPI and the compiler; whose kernels

`lockstep COMMAND --help` lists the flags of a command. Several ranks: mpirun -n 4 lockstep train …
)";

const std::map<std::string, int (*)(const Words&)>& commands() {
  static const std::map<std::string, int (*)(const Words&)> all = {{"train", &lockstep::train_command},
                                                                   {"evaluate", &lockstep::evaluate_command},
                                                                   {"info", &lockstep::info_command},
                                                                   {"data", &lockstep::data_command},
                                                                   {"bench", &lockstep::bench_command}};
  return all;
}

int run(const Words& words) {
  const std::string first = words.empty() ? "--help" : words[0];
  const bool speaks = lockstep::launcher_rank() == 0;
  if (first == "--help" || first == "-h" || first == "help") {
    if (speaks) std::fputs(kUsage, stdout);
    return 0;
  }
  if (first == "--version") {
    if (speaks) std::fputs(lockstep::versions().c_str(), stdout);
    return 0;
  }
  const auto command = commands().find(first);
  if (command == commands().end()) {
    std::vector<std::string> names;
    for (const auto& [name, function] : commands()) names.push_back(name);
    throw lockstep::Error(lockstep::ExitCode::usage, fmt::format("no command is called '{}'", first),
                          lockstep::did_you_mean(first, names) + "all commands: lockstep --help");
  }
  return command->second(Words(words.begin() + 1, words.end()));
}

}  // namespace

int main(int argc, char** argv) {
  // Training keeps a request from here to the process's end: one that comes before the first step, and one that comes
  // when all is saved. Other commands have nothing to save, and a signal ends them.
  std::optional<lockstep::StopRequest> requests;
  if (argc > 1 && std::string_view(argv[1]) == "train") requests.emplace();
  lockstep::StopRequest::let_through();
  lockstep::keep_freed_memory();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of its write, not the process's end
  int code;
  try {
    code = run(Words(argv + 1, argv + argc));
  } catch (...) {
    // Before or without MPI: every rank is here for the same reason, and the first one speaks.
    const lockstep::Error error = lockstep::current_error();
    if (lockstep::launcher_rank() == 0) lockstep::print_error(error, "");
    code = static_cast<int>(error.code());
  }
  // Past LibTorch's static destructors: they take a tenth of a second and do nothing that the end of a process does
  // not.
  std::fflush(nullptr);
  std::_Exit(code);
}
