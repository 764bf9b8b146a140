// Running other programs, without a shell.
#pragma once

#include <string>
#include <vector>

namespace lockstep {

struct ProcessResult {
  bool not_found = false;  ///< there is no such program
  int exit_status = -1;    ///< -1: ended by `signal`
  int signal = 0;
  std::string output;  ///< what it wrote to its standard output; empty when that was not taken

  /// "curl: exit code 6", "tar: killed by signal 9"
  std::string describe() const;
  std::string program;
};

/// Runs command[0], found in PATH, and waits. With `input`, its standard input is that file and its standard output is
/// taken; otherwise it reads nothing and shares our output. While it runs, Ctrl-C ends it and not us, so the caller can
/// clean up. Throws Error (io) when it cannot be started.
ProcessResult run_process(const std::vector<std::string>& command, const std::string& input = "");

}  // namespace lockstep
