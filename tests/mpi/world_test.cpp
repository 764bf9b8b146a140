#include <gtest/gtest.h>

#include <numeric>
#include <utility>

#include "lockstep/error.h"
#include "mpi_main.h"
#include "world/world_impl.h"

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

TEST(World, IsRefusedWhereMpiIsInitialisedAlready) {
  try {
    World second;
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::launch);
    EXPECT_NE(std::string(error.what()).find("initialised already"), std::string::npos) << error.what();
  }
}

TEST(World, WaitsHalfAnHourUnlessToldOtherwise) { EXPECT_EQ(World::Options().deadline_s, 1800); }

// Lengths that MPI cannot count are not for tests: pieces of 64 bytes stand for those of a gigabyte.
TEST(World, LongMessagesTravelInPieces) {
  int64_t& longest = world().impl().longest_message;
  const int64_t usual = std::exchange(longest, 64);
  for (const size_t bytes : {size_t{0}, size_t{64}, size_t{65}, size_t{1000}}) {
    std::string text(bytes, static_cast<char>('a' + world().rank()));
    const auto all = world().all_gather(text);
    for (size_t rank = 0; rank < all.size(); ++rank) {
      EXPECT_EQ(all[rank], std::string(bytes, static_cast<char>('a' + rank)));
    }
    std::vector<int64_t> values(bytes / 8);
    std::iota(values.begin(), values.end(), world().rank());
    world().sum(values);
    const int64_t n = world().size();
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], n * static_cast<int64_t>(i) + n * (n - 1) / 2);
    std::string sent(bytes, world().rank() == world().size() - 1 ? 'r' : '-');
    world().broadcast(sent.data(), bytes, world().size() - 1);
    EXPECT_EQ(sent, std::string(bytes, 'r'));
  }
  longest = usual;
}

}  // namespace
}  // namespace lockstep
