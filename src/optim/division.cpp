#include "optim/division.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace lockstep {

std::vector<int> makers(const std::vector<double>& costs, int ranks) {
  std::vector<size_t> order(costs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  std::vector<double> load(static_cast<size_t>(ranks), 0.0);
  std::vector<int> made_by(costs.size());
  for (const size_t i : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += costs[i];
    made_by[i] = static_cast<int>(least - load.begin());
  }
  return made_by;
}

}  // namespace lockstep
