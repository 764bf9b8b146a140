#include "bench/slowest.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "lockstep/world.h"

namespace lockstep {

std::vector<double> slowest(World& world, const std::vector<double>& mine) {
  const auto all =
      world.all_gather(std::string(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(double)));
  std::vector<double> most(mine.size());
  std::vector<double> of_rank(mine.size());
  for (const std::string& bytes : all) {
    std::memcpy(of_rank.data(), bytes.data(), bytes.size());
    for (size_t i = 0; i < most.size(); ++i) most[i] = std::max(most[i], of_rank[i]);
  }
  return most;
}

}  // namespace lockstep
