// Faults planted for tests by LOCKSTEP_FAULT, off unless that is set.
#pragma once

#include <cstdint>
#include <string>

namespace lockstep {

/// LOCKSTEP_FAULT=KIND@RANK:WHEN, set for all ranks, plants one fault on that rank, in a step (a number, counted from
/// 1) or at a point:
///   throw         an exception
///   kill, stop    SIGKILL, SIGSTOP
///   exit          the process ends with code 3
///   slow          two seconds of sleep; slow=SECONDS for others
///   nan           the loss becomes NaN (steps only)
///   flip          one bit of a parameter flips after the step (steps only)
/// Several, separated by commas, are for several starts of one run: the n-th restart (LOCKSTEP_RESTART, which
/// launch/resilient sets, else SLURM_RESTART_COUNT) takes the one after the n-th comma, if there is one.
class Fault {
 public:
  enum class Kind { none, throws, kill, stop, exit, slow, nan, flip };
  /// init: before the first step. evaluation: when one begins. checkpoint: rank 0 has written half of the file; other
  /// ranks have handed their part in. commit: rank 0 has the file in its place, but `latest` does not name it yet.
  /// finish: after the last step.
  enum class Point { init, evaluation, checkpoint, commit, finish };

  /// Reads the environment. Throws Error (usage) for a value it does not know.
  explicit Fault(int rank);

  /// Whether that fault is due now, on this rank.
  bool due(Kind kind, int64_t step) const { return kind == kind_ && step == step_; }

  /// Whether the loss of some rank becomes NaN in that step; the same on all ranks.
  bool changes_a_loss(int64_t step) const { return kind_ == Kind::nan && step == step_of_any_; }

  /// Between forward and backward; any kind but nan and flip.
  void in_step(int64_t step) const;
  /// The same at a point.
  void at(Point point) const;

  /// What is planted, for the banner; empty when nothing is.
  const std::string& text() const { return text_; }

 private:
  void happen(const std::string& where) const;

  std::string text_;
  Kind kind_ = Kind::none;
  double seconds_ = 2;
  int64_t step_of_any_ = -1;
  int64_t step_ = -1;  // -1: not on this rank, or at a point
  int point_ = -1;     // likewise
};

/// How often this run was started again: LOCKSTEP_RESTART, else SLURM_RESTART_COUNT, else 0.
int64_t restart_count();

}  // namespace lockstep
