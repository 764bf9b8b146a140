#include "bench/summary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

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

}  // namespace
}  // namespace lockstep
