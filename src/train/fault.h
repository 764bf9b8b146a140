// Faults planted for tests by LOCKSTEP_FAULT, off unless that is set.
#pragma once

#include <cstdint>
#include <string>

namespace lockstep {

/// LOCKSTEP_FAULT=throw@RANK:STEP makes that rank throw in that step (counted from 1), after the forward pass.
class Fault {
 public:
  /// Reads the environment. Throws Error (usage) for a value it does not know.
  explicit Fault(int rank);

  /// Throws std::runtime_error when the planted fault is here.
  void in_step(int64_t step) const;

  /// What is planted, for the banner; empty when nothing is.
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  int64_t step_ = -1;  // -1: not on this rank
};

}  // namespace lockstep
