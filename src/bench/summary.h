// What many measurements of one thing say.
#pragma once

#include <vector>

namespace lockstep {

/// In the unit of the samples.
struct Summary {
  double mean = 0;
  double p25 = 0;
  double p50 = 0;
  double p95 = 0;
  double p99 = 0;
};

/// Percentiles by nearest rank: pK is the smallest sample that at least K percent of the samples do not exceed, so it
/// is one that was measured, and of few samples p99 is the largest. `samples` is not empty.
Summary summarize(std::vector<double> samples);

}  // namespace lockstep
