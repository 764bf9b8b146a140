// What many measurements of one thing say.
#pragma once

#include <cstddef>
#include <functional>
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

/// Something made of many rounds of measurements, and how well they tell it: had they been made again, 95 times of 100
/// it would have come out between `low` and `high`.
struct Estimate {
  double value = 0;
  double low = 0;
  double high = 0;
};

/// `of` gives the value of the rounds whose numbers it gets, each any number of times; NaN where they have none. The
/// range is the bootstrap's by percentiles (B. Efron, R. Tibshirani: An Introduction to the Bootstrap, 1993, chapter
/// 13): of 1000 drawings of as many rounds, with replacement and always the same. `rounds` is at least 1.
Estimate estimate(size_t rounds, const std::function<double(const std::vector<size_t>&)>& of);

}  // namespace lockstep
