#include "bench/summary.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <random>

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

Estimate estimate(size_t rounds, const std::function<double(const std::vector<size_t>&)>& of) {
  assert(rounds > 0);
  std::vector<size_t> chosen(rounds);
  std::iota(chosen.begin(), chosen.end(), size_t{0});
  const double value = of(chosen);
  std::vector<double> drawn;
  std::mt19937_64 generator(0);
  for (int draw = 0; draw < 1000; ++draw) {
    for (size_t& round : chosen) round = generator() % rounds;
    if (const double other = of(chosen); !std::isnan(other)) drawn.push_back(other);
  }
  if (drawn.empty()) return {value, value, value};
  std::sort(drawn.begin(), drawn.end());
  const auto last = static_cast<double>(drawn.size() - 1);
  const auto at = [&](double share) { return drawn[static_cast<size_t>(std::lround(share * last))]; };
  return {.value = value, .low = at(0.025), .high = at(0.975)};
}

}  // namespace lockstep
