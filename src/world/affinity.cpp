#include "world/affinity.h"

#include <algorithm>
#include <cerrno>
#include <thread>

namespace lockstep {

std::vector<int> affinity_cores() {
  // Grows until the kernel's mask fits: machines with more than 1024 cores exist.
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(capacity));
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(capacity));
    CPU_ZERO_S(bytes, set);
    const int result = sched_getaffinity(0, bytes, set);
    const int error = errno;
    std::vector<int> cores;
    for (int core = 0; result == 0 && core < capacity; ++core) {
      if (CPU_ISSET_S(static_cast<size_t>(core), bytes, set)) cores.push_back(core);
    }
    CPU_FREE(set);
    if (result == 0) return cores;
    if (error != EINVAL) break;
  }
  std::vector<int> all(std::max(1u, std::thread::hardware_concurrency()));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  return all;
}

int ranks_sharing(const std::vector<std::vector<int>>& masks, const std::vector<int>& mine) {
  return static_cast<int>(std::count_if(masks.begin(), masks.end(), [&](const std::vector<int>& mask) {
    return std::find_first_of(mask.begin(), mask.end(), mine.begin(), mine.end()) != mask.end();
  }));
}

int default_threads(int cores, int sharers) { return std::max(1, cores / std::max(1, sharers)); }

}  // namespace lockstep
