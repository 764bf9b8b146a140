#include "bench/summary.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace lockstep {

Summary summarize(std::vector<double> samples) {
  assert(!samples.empty());
  std::sort(samples.begin(), samples.end());
  const auto percentile = [&](size_t percent) { return samples[(samples.size() * percent + 99) / 100 - 1]; };
  return {.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size()),
          .p25 = percentile(25),
          .p50 = percentile(50),
          .p95 = percentile(95),
          .p99 = percentile(99)};
}

}  // namespace lockstep
