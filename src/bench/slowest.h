// A time of a job is its slowest rank's.
#pragma once

#include <vector>

namespace lockstep {

class World;

/// Collective: the largest over all ranks of each entry; equal lengths on all ranks.
std::vector<double> slowest(World& world, const std::vector<double>& mine);

}  // namespace lockstep
