// Which of LibTorch's operators the time goes to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lockstep {

struct OperatorTime {
  std::string name;  ///< "aten::convolution_backward"; operators and autograd's nodes
  int64_t calls = 0;
  double self_s = 0;  ///< without the operators that it called
};

/// From its construction to stop() it counts all operators of this process, on all threads, by LibTorch's own observers
/// (ATen/record_function.h). Work on a GPU shows as the time of starting it. One at a time.
class OperatorTimes {
 public:
  OperatorTimes();
  ~OperatorTimes();
  OperatorTimes(const OperatorTimes&) = delete;
  OperatorTimes& operator=(const OperatorTimes&) = delete;

  /// Sums over all threads, the longest first. Last, named "(no operator)", is what the thread that made this spent
  /// outside all operators; so the sum is all time of that thread, and the operators' of others.
  std::vector<OperatorTime> stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The operators with the most self time, a line each, and a line for the rest: ms and calls a step, and the share of
/// all.
std::string operators_table(const std::vector<OperatorTime>& operators, int64_t steps);

}  // namespace lockstep
