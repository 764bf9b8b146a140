// Errors that a person reads: what happened, a hint saying what to do next, and the exit code of the job.
#pragma once

#include <stdexcept>
#include <string>

namespace lockstep {

/// Exit codes of the command `lockstep`; docs/exit-codes.md says what a batch script does with each.
enum class ExitCode : int {
  done = 0,
  usage = 64,           ///< wrong usage or configuration
  damaged = 65,         ///< data or a checkpoint is damaged
  missing = 66,         ///< an input is missing
  launch = 69,          ///< launched wrongly: rank count, device clash, mixed builds
  internal = 70,        ///< an error inside Lockstep or a library below it
  io = 74,              ///< input/output error, disk full
  rank_lost = 75,       ///< a rank was lost or a deadline passed: restart from the last checkpoint
  diverged = 76,        ///< replicas differ, or the loss is not finite
  resume_refused = 78,  ///< the settings of the resumed run differ
  too_slow = 79,        ///< a benchmark did not reach its floor
  stopped = 85,         ///< stopped on request after saving
};

/// An error with an exit code and a hint. `what()` is one sentence without a full stop or line break.
///
///     throw Error(ExitCode::missing, fmt::format("no data in {}", dir), "run `lockstep data fetch`");
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& what, std::string hint = "")
      : std::runtime_error(what), code_(code), hint_(std::move(hint)) {}

  ExitCode code() const { return code_; }
  const std::string& hint() const { return hint_; }

 private:
  ExitCode code_;
  std::string hint_;
};

}  // namespace lockstep
