#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace lockstep {
namespace {

constexpr auto kAll = {ScheduleShape::constant, ScheduleShape::linear, ScheduleShape::triangular,
                       ScheduleShape::cosine};

TEST(Schedule, ConstantIsExactlyThePeakInEveryStep) {
  for (int64_t step = 1; step <= 100; ++step) EXPECT_EQ(share_of_peak(ScheduleShape::constant, step, 100, 0), 1.0);
}

TEST(Schedule, LinearFallsByTheSameAmountFromThePeakInTheFirstStep) {
  for (int64_t step = 1; step <= 8; ++step) {
    EXPECT_DOUBLE_EQ(share_of_peak(ScheduleShape::linear, step, 8, 0), 1 - static_cast<double>(step - 1) / 8);
  }
}

TEST(Schedule, CosineFallsAlongHalfACosine) {
  for (int64_t step = 1; step <= 10; ++step) {
    const double angle = std::numbers::pi * static_cast<double>(step - 1) / 10;
    EXPECT_DOUBLE_EQ(share_of_peak(ScheduleShape::cosine, step, 10, 0), (1 + std::cos(angle)) / 2);
  }
}

TEST(Schedule, TriangularPeaksAfterAFifthOfTheRunAndFallsToNothing) {
  const auto share = [](int64_t step) { return share_of_peak(ScheduleShape::triangular, step, 100, 0); };
  EXPECT_DOUBLE_EQ(share(1), 1.0 / 20);
  EXPECT_DOUBLE_EQ(share(10), 0.5);
  EXPECT_EQ(share(20), 1);
  EXPECT_DOUBLE_EQ(share(21), 80.0 / 81);
  EXPECT_DOUBLE_EQ(share(100), 1.0 / 81);
  EXPECT_EQ(share(101), 0);
}

TEST(Schedule, EveryShapeRisesInItsWarmup) {
  for (const ScheduleShape shape : kAll) {
    for (int64_t step = 1; step <= 7; ++step) {
      EXPECT_DOUBLE_EQ(share_of_peak(shape, step, 50, 7), static_cast<double>(step) / 7);
    }
    EXPECT_LE(share_of_peak(shape, 8, 50, 7), 1);
  }
}

TEST(Schedule, IsBetweenNothingAndThePeakForRunsOfAnyLength) {
  for (const ScheduleShape shape : kAll) {
    for (const int64_t total : {1, 2, 4, 5, 9}) {
      for (const int64_t warmup : {0, 1, 3, 20}) {
        for (int64_t step = 1; step <= total; ++step) {
          const double share = share_of_peak(shape, step, total, warmup);
          EXPECT_GT(share, 0) << total << ' ' << warmup << ' ' << step;
          EXPECT_LE(share, 1);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lockstep
