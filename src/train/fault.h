// Faults planted for tests by LOCKSTEP_FAULT, off unless that is set.
#pragma once

#include <cstdint>
#include <string>

namespace lockstep {

/// LOCKSTEP_FAULT=KIND@RANK:STEP plants one fault on that rank in that step (counted from 1):
///   throw  an exception between forward and backward
///   nan    the loss becomes NaN
///   flip   one bit of a parameter flips after the step
class Fault {
 public:
  enum class Kind { none, throws, nan, flip };

  /// Reads the environment. Throws Error (usage) for a value it does not know.
  explicit Fault(int rank);

  /// Whether that fault is due now, on this rank.
  bool due(Kind kind, int64_t step) const { return kind == kind_ && step == step_; }

  /// Throws std::runtime_error when the planted fault says so.
  void in_step(int64_t step) const;

  /// What is planted, for the banner; empty when nothing is.
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  Kind kind_ = Kind::none;
  int64_t step_ = -1;  // -1: not on this rank
};

}  // namespace lockstep
