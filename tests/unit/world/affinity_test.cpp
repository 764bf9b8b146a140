#include "world/affinity.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(Affinity, ThisProcessMayRunSomewhere) { EXPECT_FALSE(affinity_cores().empty()); }

TEST(Affinity, RanksThatShareACoreShareTheThreads) {
  const std::vector<int> mine = {0, 1, 2, 3};
  EXPECT_EQ(ranks_sharing({mine, {0, 1, 2, 3}, {4, 5}, {3, 4}}, mine), 3);
  EXPECT_EQ(ranks_sharing({{0}, {1}}, {1}), 1);
}

TEST(Affinity, ThreadsAreCoresDividedBySharersAndAtLeastOne) {
  EXPECT_EQ(default_threads(8, 2), 4);
  EXPECT_EQ(default_threads(2, 4), 1);
  EXPECT_EQ(default_threads(5, 2), 2);
}

}  // namespace
}  // namespace lockstep
