// How ranks divide the optimizer's work where a result takes longer to make than to send.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace lockstep {

/// Each rank makes some of the results, then all have all. As it is: one rank, which makes all.
struct Division {
  int rank = 0;
  int ranks = 1;
  /// Collective: part r, as rank r has it, replaces part r of all others. One part for each rank, of the same size and
  /// dtype everywhere, some of them empty.
  std::function<void(const std::vector<at::Tensor>& parts)> exchange = {};
};

/// The rank that makes each result: the most expensive first, each by the rank that has the least so far, the lowest of
/// equals. So no rank has more than 4/3 of what the best division would give it (R. L. Graham, Bounds on
/// multiprocessing timing anomalies, 1969), and the same costs are divided alike everywhere.
std::vector<int> makers(const std::vector<double>& costs, int ranks);

}  // namespace lockstep
