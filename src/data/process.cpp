#include "data/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "lockstep/error.h"
#include "store/files.h"

extern char** environ;

namespace lockstep {
namespace {

// Ctrl-C reaches the child, which has the default reaction; here it is ignored meanwhile, as system(3) does.
class IgnoreInterrupts {
 public:
  IgnoreInterrupts() {
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGINT, &ignore, &interrupt_);
    ::sigaction(SIGQUIT, &ignore, &quit_);
  }
  ~IgnoreInterrupts() {
    ::sigaction(SIGINT, &interrupt_, nullptr);
    ::sigaction(SIGQUIT, &quit_, nullptr);
  }
  IgnoreInterrupts(const IgnoreInterrupts&) = delete;
  IgnoreInterrupts& operator=(const IgnoreInterrupts&) = delete;

 private:
  struct sigaction interrupt_ {};
  struct sigaction quit_ {};
};

// What the child starts with: its files and its signals.
class Setup {
 public:
  Setup() {
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawnattr_init(&attributes);
    sigset_t defaults;
    ::sigemptyset(&defaults);
    for (const int number : {SIGINT, SIGQUIT, SIGPIPE}) ::sigaddset(&defaults, number);
    ::posix_spawnattr_setsigdefault(&attributes, &defaults);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  }
  ~Setup() {
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&attributes);
  }
  Setup(const Setup&) = delete;
  Setup& operator=(const Setup&) = delete;

  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
};

std::string read_to_end(int descriptor) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::read(descriptor, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

}  // namespace

std::string ProcessResult::describe() const {
  if (not_found) return fmt::format("{} is not installed", program);
  if (exit_status >= 0) return fmt::format("{}: exit code {}", program, exit_status);
  return fmt::format("{}: killed by signal {}", program, signal);
}

ProcessResult run_process(const std::vector<std::string>& command, const std::string& input) {
  const IgnoreInterrupts guard;
  Setup setup;
  ::posix_spawn_file_actions_addopen(&setup.files, STDIN_FILENO, input.empty() ? "/dev/null" : input.c_str(), O_RDONLY,
                                     0);
  int ends[2] = {-1, -1};
  if (!input.empty() && ::pipe2(ends, O_CLOEXEC) != 0) throw file_error("make a pipe for", command[0], errno);
  Descriptor from_child(ends[0]), to_us(ends[1]);
  if (to_us) ::posix_spawn_file_actions_adddup2(&setup.files, to_us.number(), STDOUT_FILENO);

  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const auto& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  ProcessResult result;
  result.program = command[0];
  pid_t child = 0;
  const int problem =
      ::posix_spawnp(&child, command[0].c_str(), &setup.files, &setup.attributes, arguments.data(), environ);
  if (problem == ENOENT) {
    result.not_found = true;
    return result;
  }
  if (problem != 0) throw file_error("run", command[0], problem);
  if (to_us) {
    to_us.close();
    result.output = read_to_end(from_child.number());
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) result.exit_status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

}  // namespace lockstep
