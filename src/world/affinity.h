// Cores this process may run on.
#pragma once

#include <sched.h>

#include <string>
#include <vector>

namespace lockstep {

/// Core numbers in the calling thread's affinity mask, ascending.
std::vector<int> affinity_cores();

/// How many of `masks` (one for each rank of a host, as lists of cores) share a core with `mine`; counts itself.
int ranks_sharing(const std::vector<std::vector<int>>& masks, const std::vector<int>& mine);

/// Threads for a rank: its cores divided by the ranks that share them, at least 1.
int default_threads(int cores, int sharers);

}  // namespace lockstep
