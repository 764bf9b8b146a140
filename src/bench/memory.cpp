#include "bench/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace lockstep {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

// The number that a file begins with; kUnknown when there is no file, or a word such as "max".
int64_t number_in(const char* path) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? number : kUnknown;
}

int64_t host_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string name; file >> name;) {
    int64_t kilobytes = 0;
    if (name == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
    std::getline(file, name);
  }
  return kUnknown;
}

int64_t left_in_group(const char* limit_file, const char* used_file) {
  const int64_t limit = number_in(limit_file);
  const int64_t used = number_in(used_file);
  return limit == kUnknown || used == kUnknown ? kUnknown : std::max<int64_t>(0, limit - used);
}

// As a container sees its own control group, in version 2 and 1.
int64_t group_memory() {
  return std::min(
      left_in_group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
      left_in_group("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"));
}

}  // namespace

int64_t available_memory() { return std::min(host_memory(), group_memory()); }

}  // namespace lockstep
