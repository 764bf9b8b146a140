#include "lockstep/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "../expect_error.h"

namespace lockstep {
namespace {

using test::expect_error;
using ::testing::ElementsAre;

std::vector<int64_t> permutation(int64_t size, uint64_t seed, int64_t epoch) {
  return DistributedSampler({.size = size, .seed = seed}).permutation(epoch);
}

std::vector<int64_t> dealt(int64_t size, int world, int rank, bool shuffle, bool drop_last = false) {
  return DistributedSampler(
             {.size = size, .world_size = world, .rank = rank, .shuffle = shuffle, .drop_last = drop_last})
      .indices(0);
}

// torch.randperm(50000, generator=torch.Generator().manual_seed(seed))
TEST(DistributedSampler, FirstPermutationsAreTheGoldenOnes) {
  const auto zero = permutation(50'000, 0, 0);
  EXPECT_EQ(zero.size(), 50'000u);
  EXPECT_EQ(zero[0], 36044);
  EXPECT_EQ(zero[1], 49165);
  EXPECT_EQ(zero.back(), 31476);
  const auto one = permutation(50'000, 1, 0);
  EXPECT_EQ(one[0], 45845);
  EXPECT_EQ(one[1], 11799);
  EXPECT_EQ(one.back(), 8475);
}

TEST(DistributedSampler, TheSeedOfAnEpochIsSeedPlusEpoch) {
  EXPECT_EQ(permutation(1000, 0, 3), permutation(1000, 3, 0));
  EXPECT_EQ(permutation(1000, 2, 1), permutation(1000, 1, 2));
  EXPECT_NE(permutation(1000, 0, 0), permutation(1000, 0, 1));
}

TEST(DistributedSampler, WithoutShufflingTheOrderIsTheDataSets) {
  EXPECT_THAT(dealt(10, 1, 0, false), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST(DistributedSampler, RanksTakeStrides) {
  EXPECT_THAT(dealt(10, 2, 0, false), ElementsAre(0, 2, 4, 6, 8));
  EXPECT_THAT(dealt(10, 2, 1, false), ElementsAre(1, 3, 5, 7, 9));
}

TEST(DistributedSampler, PadsWithTheBeginningOfThePermutation) {
  EXPECT_THAT(dealt(10, 4, 2, false), ElementsAre(2, 6, 0));
  EXPECT_THAT(dealt(10, 4, 3, false), ElementsAre(3, 7, 1));
  EXPECT_THAT(dealt(7, 3, 2, false), ElementsAre(2, 5, 1));
}

TEST(DistributedSampler, PadsSeveralTimesWhenThereAreMoreRanksThanEntries) {
  for (int rank = 0; rank < 4; ++rank) EXPECT_THAT(dealt(1, 4, rank, true), ElementsAre(0));
  for (int rank = 0; rank < 7; ++rank) EXPECT_THAT(dealt(3, 7, rank, false), ElementsAre(rank % 3));
}

TEST(DistributedSampler, DropLastCutsTheEnd) {
  EXPECT_THAT(dealt(10, 4, 0, false, true), ElementsAre(0, 4));
  EXPECT_THAT(dealt(10, 4, 3, false, true), ElementsAre(3, 7));
  EXPECT_THAT(dealt(7, 3, 2, false, true), ElementsAre(2, 5));
  EXPECT_THAT(dealt(10, 2, 1, false, true), ElementsAre(1, 3, 5, 7, 9));
  EXPECT_THAT(dealt(1, 4, 0, false, true), ElementsAre());
}

// The rule as torch/utils/data/distributed.py has it, for every size and world of interest.
TEST(DistributedSampler, EveryRankTakesAsManyAndTogetherTheyTakeThePermutation) {
  for (const int64_t size : {1, 7, 10, 50'000}) {
    for (int world = 1; world <= 4; ++world) {
      for (const bool drop_last : {false, true}) {
        SCOPED_TRACE(::testing::Message() << size << " entries, " << world << " ranks, drop_last " << drop_last);
        const double exact = static_cast<double>(size) / world;
        const auto expected = static_cast<int64_t>(
            drop_last && size % world != 0 ? std::ceil((static_cast<double>(size) - world) / world) : std::ceil(exact));
        const auto order = permutation(size, 5, 2);
        for (int rank = 0; rank < world; ++rank) {
          const DistributedSampler sampler(
              {.size = size, .world_size = world, .rank = rank, .seed = 5, .drop_last = drop_last});
          const auto mine = sampler.indices(2);
          ASSERT_EQ(sampler.size(), expected);
          ASSERT_EQ(static_cast<int64_t>(mine.size()), expected);
          for (std::size_t i = 0; i < mine.size(); ++i) {
            const std::size_t entry = i * static_cast<std::size_t>(world) + static_cast<std::size_t>(rank);
            ASSERT_EQ(mine[i], order[entry % order.size()]);
          }
        }
      }
    }
  }
}

TEST(DistributedSampler, APermutationHoldsEveryEntryOnce) {
  auto entries = permutation(50'000, 123456789, 4);
  std::sort(entries.begin(), entries.end());
  std::vector<int64_t> all(50'000);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(entries, all);
}

TEST(DistributedSampler, RefusesAnEmptySetAndARankOutsideTheWorld) {
  expect_error(ExitCode::usage, {"0 images"}, [] { DistributedSampler({.size = 0}); });
  expect_error(ExitCode::usage, {"rank 2", "2 ranks"},
               [] { DistributedSampler({.size = 5, .world_size = 2, .rank = 2}); });
  expect_error(ExitCode::usage, {"rank -1"}, [] { DistributedSampler({.size = 5, .world_size = 2, .rank = -1}); });
  expect_error(ExitCode::usage, {"world of 0"}, [] { DistributedSampler({.size = 5, .world_size = 0}); });
}

}  // namespace
}  // namespace lockstep
