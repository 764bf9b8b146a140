#include "optim/division.h"

#include <gmock/gmock.h>

#include <algorithm>

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

double most_loaded(const std::vector<double>& costs, int ranks) {
  std::vector<double> load(static_cast<size_t>(ranks));
  const std::vector<int> made_by = makers(costs, ranks);
  for (size_t i = 0; i < costs.size(); ++i) load[static_cast<size_t>(made_by[i])] += costs[i];
  return *std::max_element(load.begin(), load.end());
}

TEST(Division, TheMostExpensiveGoesFirstToWhoHasLeast) {
  EXPECT_THAT(makers({1, 5, 3, 3}, 2), ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(makers({2, 2, 2}, 2), ElementsAre(0, 1, 0));
  EXPECT_EQ(most_loaded({1, 5, 3, 3}, 2), 6);
}

TEST(Division, OneRankMakesAllAndRanksMayHaveNothing) {
  EXPECT_THAT(makers({1, 2, 3}, 1), ElementsAre(0, 0, 0));
  EXPECT_THAT(makers({1, 2}, 4), ElementsAre(1, 0));
  EXPECT_THAT(makers({}, 4), IsEmpty());
}

}  // namespace
}  // namespace lockstep
