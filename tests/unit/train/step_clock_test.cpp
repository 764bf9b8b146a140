#include "train/step_clock.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(Spread, NamesTheWorstRank) {
  const Spread odd = spread({2, 9, 4});
  EXPECT_EQ(odd.least, 2);
  EXPECT_EQ(odd.median, 4);
  EXPECT_EQ(odd.most, 9);
  EXPECT_EQ(odd.worst_rank, 1);
  EXPECT_EQ(spread({1, 4, 2, 3}).median, 2.5);
  EXPECT_EQ(spread({7}).median, 7);
}

}  // namespace
}  // namespace lockstep
