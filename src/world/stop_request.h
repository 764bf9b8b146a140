// A request to save and stop, by signal.
#pragma once

#include <array>
#include <csignal>
#include <cstdint>
#include <string>

namespace lockstep {

/// While it lives, SIGTERM, SIGINT and SIGUSR1 only note that this process was asked to stop; who trains looks at a
/// step's end. A second signal, half a second after the first or later, ends the process at once with code 128 + its
/// number. (The same request often comes twice in a row: from mpirun and from Slurm.) One inside another changes
/// nothing: what came since the first was made is kept.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  enum Value : int64_t {
    none = 0,
    interrupt = 1,  ///< SIGINT, by a person at this process's terminal: no failure
    asked = 2,      ///< any other
  };
  /// What came so far. Ranks that were asked in different ways agree on the largest.
  static Value value();

  /// Local: from now on signals that were held (blocked) come to the calling thread. A program holds them while it is
  /// loaded, and `env --block-signal=USR1,TERM PROGRAM` even before: with a handler in place none of them is lost.
  static void let_through();

  /// Whether a SIGTERM was among them: with it mpirun also ends the ranks of a job in which another one failed.
  static bool came_as_term();

 private:
  static constexpr std::array kSignals = {SIGTERM, SIGINT, SIGUSR1};
  std::array<struct sigaction, kSignals.size()> before_ = {};
};

}  // namespace lockstep
