// The rounds of the all-reduce, played by one process: buffers of expressions show what is added to what.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "comm/mpi/allreduce.h"

namespace lockstep {
namespace {

using Buffer = std::vector<std::string>;

// An element is the expression that made it. Adding is commutative, so the smaller text comes first.
std::string sum(const std::string& a, const std::string& b) {
  return a < b ? "(" + a + " " + b + ")" : "(" + b + " " + a + ")";
}

std::vector<Buffer> play(int size, int64_t count, int64_t short_count) {
  std::vector<Buffer> buffers;
  std::vector<std::vector<Round>> rounds;
  for (int rank = 0; rank < size; ++rank) {
    buffers.emplace_back(static_cast<size_t>(count), std::to_string(rank));
    rounds.push_back(allreduce_rounds(rank, size, count, short_count));
    EXPECT_EQ(rounds.back().size(), rounds.front().size());
  }
  for (size_t i = 0; i < rounds[0].size(); ++i) {
    const std::vector<Buffer> before = buffers;
    for (size_t rank = 0; rank < rounds.size(); ++rank) {
      const Round& mine = rounds[rank][i];
      const Round& theirs = rounds[static_cast<size_t>(mine.from)][i];
      EXPECT_EQ(theirs.to, static_cast<int>(rank)) << "a message for somebody else";
      EXPECT_EQ(theirs.send.first, mine.receive.first);
      EXPECT_EQ(theirs.send.count, mine.receive.count);
      for (auto k = static_cast<size_t>(mine.receive.first);
           k < static_cast<size_t>(mine.receive.first + mine.receive.count); ++k) {
        const std::string& received = before[static_cast<size_t>(mine.from)][k];
        buffers[rank][k] = mine.combine ? sum(before[rank][k], received) : received;
      }
    }
  }
  return buffers;
}

TEST(AllreduceRounds, EveryRankEndsWithTheSameSumOfAllRanks) {
  for (int size = 1; size <= 9; ++size) {
    for (const int64_t count : {0, 1, 2, 3, 7, 8, 64, 1000}) {
      for (const int64_t short_count : {0, 8}) {
        const auto buffers = play(size, count, short_count);
        for (const Buffer& buffer : buffers) EXPECT_EQ(buffer, buffers[0]) << size << " ranks, " << count;
        for (const std::string& element : buffers[0]) {
          for (int rank = 0; rank < size; ++rank) {
            EXPECT_EQ(std::count(element.begin(), element.end(), static_cast<char>('0' + rank)), 1) << element;
          }
        }
      }
    }
  }
}

TEST(AllreduceRounds, APowerOfTwoOfRanksAddsInOneBinaryTree) {
  for (const int64_t short_count : {0, 100}) {
    const auto buffers = play(8, 37, short_count);
    for (const std::string& element : buffers[0]) {
      EXPECT_EQ(element, "(((0 1) (2 3)) ((4 5) (6 7)))");
    }
  }
}

TEST(AllreduceRounds, NoRankSendsMoreThanTwiceTheBuffer) {
  for (int size = 2; size <= 9; ++size) {
    for (int rank = 0; rank < size; ++rank) {
      int64_t sent = 0;
      for (const Round& round : allreduce_rounds(rank, size, 5040, 0)) sent += round.send.count;
      EXPECT_LE(sent, 2 * 5040) << size;
    }
  }
}

}  // namespace
}  // namespace lockstep
