#include "train/deal.h"

#include <gtest/gtest.h>

#include <numeric>

namespace lockstep {
namespace {

struct Dealt {
  std::vector<int64_t> images;
  double weight = 0;  // of all passes together
  size_t passes = 0;
};

Dealt dealt(Deal& deal, int64_t step, int64_t shard) {
  Dealt all;
  for (const Pass& pass : deal.passes(step, shard)) {
    all.images.insert(all.images.end(), pass.images.begin(), pass.images.end());
    all.weight += pass.weight;
    ++all.passes;
  }
  return all;
}

std::vector<int64_t> counting(int64_t size) {
  std::vector<int64_t> entries(static_cast<size_t>(size));
  std::iota(entries.begin(), entries.end(), int64_t{0});
  return entries;
}

TEST(Deal, EqualSharesWeighExactlyOne) {
  const Plan plan = make_plan(Settings{}, 2, 100);
  Deal deal(plan, 2);
  deal.begin_epoch(counting(100));
  for (const int64_t step : {0, 1}) {
    for (const int64_t rank : {0, 1}) EXPECT_EQ(dealt(deal, step, rank).weight, 1.0);
  }
  EXPECT_EQ(deal.images(0), 64);
  EXPECT_EQ(deal.images(1), 36);
  EXPECT_EQ(dealt(deal, 1, 1).images.front(), 65);
}

TEST(Deal, ThreeRanksTakeEveryImageOfAStepOnce) {
  const Plan plan = make_plan(Settings{}, 3, 100);
  Deal deal(plan, 3);
  deal.begin_epoch(counting(100));
  const std::vector<std::vector<size_t>> shares = {{22, 21, 21}, {12, 12, 12}};
  for (const int64_t step : {0, 1}) {
    std::vector<int64_t> seen;
    double weight = 0;
    for (const int64_t rank : {0, 1, 2}) {
      const Dealt mine = dealt(deal, step, rank);
      EXPECT_EQ(mine.images.size(), shares[static_cast<size_t>(step)][static_cast<size_t>(rank)]);
      seen.insert(seen.end(), mine.images.begin(), mine.images.end());
      weight += mine.weight;
    }
    std::sort(seen.begin(), seen.end());
    std::vector<int64_t> expected(static_cast<size_t>(deal.images(step)));
    std::iota(expected.begin(), expected.end(), step * 64);
    EXPECT_EQ(seen, expected);
    EXPECT_DOUBLE_EQ(weight, 3);  // and the average over three ranks is the mean over all images
  }
}

TEST(Deal, PassesOfAStepShareItsImagesByTheirNumber) {
  Settings settings;
  settings.train_accumulate = 3;
  settings.train_virtual_ranks = 2;
  Deal deal(make_plan(settings, 1, 64), 1);
  deal.begin_epoch(counting(64));
  for (const int64_t shard : {0, 1}) {
    const Dealt mine = dealt(deal, 0, shard);
    EXPECT_EQ(mine.passes, 3U);
    EXPECT_EQ(mine.images.size(), 32U);
    EXPECT_DOUBLE_EQ(mine.weight, 0.5);
  }
  EXPECT_DOUBLE_EQ(deal.passes(0, 0)[0].weight, 10.0 / 64);
}

TEST(Deal, AShardWithoutImagesRunsOneThatCountsNothing) {
  Deal deal(make_plan(Settings{}, 3, 66), 3);
  deal.begin_epoch(counting(66));  // 64 and 2
  EXPECT_EQ(dealt(deal, 1, 1).images, std::vector<int64_t>{65});
  const Dealt last = dealt(deal, 1, 2);
  EXPECT_EQ(last.images, std::vector<int64_t>{64});
  EXPECT_EQ(last.weight, 0);
}

}  // namespace
}  // namespace lockstep
