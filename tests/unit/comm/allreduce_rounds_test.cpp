// The rounds of the all-reduce, played by one process: buffers of expressions show what is added to what.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
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
  const auto sent = [&](int from, int to, size_t round) {
    std::vector<Range> ranges;
    for (const Message& message : rounds[static_cast<size_t>(from)][round].send) {
      if (message.peer == to) ranges.push_back(message.range);
    }
    return ranges;
  };
  for (size_t i = 0; i < rounds[0].size(); ++i) {
    const std::vector<Buffer> before = buffers;
    for (int rank = 0; rank < size; ++rank) {
      const Round& mine = rounds[static_cast<size_t>(rank)][i];
      size_t to_me = 0;
      for (int from = 0; from < size; ++from) to_me += sent(from, rank, i).size();
      EXPECT_EQ(to_me, mine.receive.size()) << "a message that nobody takes";
      Buffer& buffer = buffers[static_cast<size_t>(rank)];
      for (const Message& message : mine.receive) {
        const auto ranges = sent(message.peer, rank, i);
        EXPECT_EQ(ranges.size(), 1U);
        if (ranges.size() != 1) continue;
        EXPECT_EQ(ranges[0].first, message.range.first);
        EXPECT_EQ(ranges[0].count, message.range.count);
      }
      if (mine.receive.empty()) continue;
      const auto elements = [](const Range& range, const auto& visit) {
        for (int64_t k = range.first; k < range.first + range.count; ++k) visit(static_cast<size_t>(k));
      };
      if (!mine.combine) {
        for (const Message& message : mine.receive) {
          elements(message.range, [&](size_t k) { buffer[k] = before[static_cast<size_t>(message.peer)][k]; });
        }
        continue;
      }
      elements(mine.receive[0].range, [&](size_t k) {  // in the order of the ranks, the own value among them
        std::map<int, std::string> values = {{rank, before[static_cast<size_t>(rank)][k]}};
        for (const Message& message : mine.receive) values[message.peer] = before[static_cast<size_t>(message.peer)][k];
        std::string total;
        for (const auto& [peer, value] : values) total = total.empty() ? value : sum(total, value);
        buffer[k] = total;
      });
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

TEST(AllreduceRounds, AnyOtherNumberAddsInTheOrderOfTheRanksWhereverAnElementLies) {
  for (const int64_t short_count : {0, 100}) {
    const auto buffers = play(5, 37, short_count);
    for (const std::string& element : buffers[0]) EXPECT_EQ(element, "((((0 1) 2) 3) 4)");
  }
}

TEST(AllreduceRounds, NoRankSendsMoreThanTwiceTheBuffer) {
  for (int size = 2; size <= 9; ++size) {
    for (int rank = 0; rank < size; ++rank) {
      int64_t sent = 0;
      for (const Round& round : allreduce_rounds(rank, size, 5040, 0)) {
        for (const Message& message : round.send) sent += message.range.count;
      }
      EXPECT_LE(sent, 2 * 5040) << size;
    }
  }
}

TEST(AllreduceParts, AWeightOfARoundSizeTakesItsBiasAlong) {
  EXPECT_GE(elements_of_a_part(65536 + 256, 65536), 65536 + 256);
  EXPECT_LE(elements_of_a_part(2 * 65536, 65536), 65536);
}

TEST(AllreduceParts, PartsAreWholeCacheLinesAndAnEighthLongerAtMost) {
  for (const int64_t usual : {65536, 1000}) {
    for (const int64_t count : {1, 63, 64, 1125, 1126, 65537, 73728, 73729, 131072, 147457, 1000000}) {
      const int64_t part = elements_of_a_part(count, usual);
      EXPECT_EQ(part % 64, 0) << count;
      EXPECT_GT(part, 0) << count;
      EXPECT_LT(part, usual + usual / 8 + 64) << count;
    }
  }
}

TEST(AllreduceParts, AreAboutEqual) {
  const int64_t part = elements_of_a_part(200001, 65536);
  EXPECT_EQ((200001 + part - 1) / part, 3);
  EXPECT_GT(200001 - 2 * part, part - 3 * 64);
}

}  // namespace
}  // namespace lockstep
