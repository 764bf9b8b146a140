#include "train/seeds.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lockstep {
namespace {

TEST(Seeds, MeanAndSampleStandardDeviation) {
  const auto [mean, deviation] = spread_of({1, 2, 4});
  EXPECT_DOUBLE_EQ(mean, 7.0 / 3);
  EXPECT_DOUBLE_EQ(deviation, std::sqrt(7.0 / 3));
  EXPECT_EQ(spread_of({5}).mean, 5);
  EXPECT_EQ(spread_of({5}).deviation, 0);
}

}  // namespace
}  // namespace lockstep
