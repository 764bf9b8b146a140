#include <gtest/gtest.h>

#include <numeric>

#include "lockstep/error.h"
#include "mpi_main.h"

namespace lockstep {
namespace {

TEST(World, RanksAreOnOneHostAndCountedFromZero) {
  EXPECT_GE(world().rank(), 0);
  EXPECT_LT(world().rank(), world().size());
  EXPECT_EQ(world().local_rank(), world().rank());
  EXPECT_EQ(world().local_size(), world().size());
  EXPECT_EQ(world().hosts(), 1);
}

TEST(World, AllGatherKeepsRankOrderAndEmptyTexts) {
  const std::string mine(static_cast<size_t>(world().rank()), 'x');
  const auto all = world().all_gather(mine);
  ASSERT_EQ(all.size(), static_cast<size_t>(world().size()));
  for (size_t rank = 0; rank < all.size(); ++rank) EXPECT_EQ(all[rank], std::string(rank, 'x'));
}

TEST(World, BroadcastCopiesTheRoots) {
  std::vector<int> values(1000, world().rank());
  const int root = world().size() - 1;
  world().broadcast(values.data(), values.size() * sizeof(int), root);
  EXPECT_EQ(values, std::vector<int>(1000, root));
}

TEST(World, SumAddsOverRanks) {
  std::vector<double> reals = {1, 0.5};
  std::vector<int64_t> whole = {world().rank()};
  world().sum(reals);
  world().sum(whole);
  EXPECT_EQ(reals, (std::vector<double>{1.0 * world().size(), 0.5 * world().size()}));
  EXPECT_EQ(whole[0], world().size() * (world().size() - 1) / 2);
}

TEST(World, AnErrorOnOneRankIsTheSameErrorOnAll) {
  const int culprit = world().size() - 1;
  try {
    world().together([&] {
      if (world().rank() == culprit) throw Error(ExitCode::damaged, "the file is torn", "get it again");
    });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.rank(), culprit);
    EXPECT_EQ(error.code(), ExitCode::damaged);
    EXPECT_STREQ(error.what(), "the file is torn");
    EXPECT_EQ(error.hint(), "get it again");
  }
}

TEST(World, TheLowestRankSpeaksWhenAllFail) {
  try {
    world().together([] { throw std::runtime_error("all alike"); });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.rank(), 0);
    EXPECT_EQ(error.code(), ExitCode::internal);
  }
}

}  // namespace
}  // namespace lockstep
