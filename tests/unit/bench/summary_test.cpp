#include "bench/summary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace lockstep {
namespace {

TEST(Summary, PercentilesAreSamplesByNearestRank) {
  std::vector<double> samples(201);
  std::iota(samples.begin(), samples.end(), 1.0);
  std::reverse(samples.begin(), samples.end());
  const Summary summary = summarize(samples);
  EXPECT_EQ(summary.mean, 101);
  EXPECT_EQ(summary.p50, 101);
  EXPECT_EQ(summary.p95, 191);
  EXPECT_EQ(summary.p99, 199);
}

TEST(Summary, OfFewSamplesTheHighPercentilesAreTheLargest) {
  const Summary summary = summarize({3, 1, 2, 50, 4});
  EXPECT_EQ(summary.mean, 12);
  EXPECT_EQ(summary.p50, 3);
  EXPECT_EQ(summary.p95, 50);
  EXPECT_EQ(summary.p99, 50);
}

TEST(Summary, OneSampleIsEverything) {
  const Summary summary = summarize({7});
  EXPECT_EQ(summary.mean, 7);
  EXPECT_EQ(summary.p50, 7);
  EXPECT_EQ(summary.p99, 7);
}

TEST(Estimate, ItsRangeIsThatOfTheMeanOfNormalSamples) {
  std::mt19937 generator(1);
  std::normal_distribution<double> normal(10, 2);
  std::vector<double> samples(400);
  for (double& sample : samples) sample = normal(generator);
  const auto mean = [&](const std::vector<size_t>& rounds) {
    double sum = 0;
    for (const size_t round : rounds) sum += samples[round];
    return sum / static_cast<double>(rounds.size());
  };
  const Estimate told = estimate(samples.size(), mean);
  EXPECT_NEAR(told.value, summarize(samples).mean, 1e-12);
  // 1.96 of the mean's deviation, 2 / sqrt(400), on either side; as measured, so to a tenth.
  EXPECT_NEAR(told.value - told.low, 0.196, 0.02);
  EXPECT_NEAR(told.high - told.value, 0.196, 0.02);
}

TEST(Estimate, DrawingsWithoutAValueDoNotCount) {
  const auto of = [](const std::vector<size_t>& rounds) {
    return std::count(rounds.begin(), rounds.end(), size_t{0}) > 0 ? 1.0 : std::nan("");
  };
  const Estimate told = estimate(2, of);
  EXPECT_EQ(told.low, 1);
  EXPECT_EQ(told.high, 1);
}

TEST(Estimate, OneRoundLeavesNothingOpen) {
  const Estimate told = estimate(1, [](const std::vector<size_t>&) { return 3.0; });
  EXPECT_EQ(told.value, 3);
  EXPECT_EQ(told.low, 3);
  EXPECT_EQ(told.high, 3);
}

}  // namespace
}  // namespace lockstep
