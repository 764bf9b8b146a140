#include "ddp/gathered.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(Gathered, WhatWasPackedComesBack) {
  for (const std::vector<std::string>& texts : {std::vector<std::string>{}, {""}, {"", "a", ""}, {"one", "two"}}) {
    EXPECT_EQ(unpack(pack(texts)), texts);
  }
  EXPECT_EQ(unpack("torn"), std::vector<std::string>{"torn"});
}

TEST(Gathered, RanksAreNamedInWords) {
  EXPECT_EQ(name_ranks({2}), "rank 2");
  EXPECT_EQ(name_ranks({1, 3}), "ranks 1, 3");
  EXPECT_EQ(name_ranks({0, 1, 2, 3, 4, 5, 6, 7}), "ranks 0, 1, 2, 3, 4, 5, 6, 7");
  EXPECT_EQ(name_ranks({0, 1, 2, 3, 4, 5, 6, 7, 9, 11}), "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
  EXPECT_EQ(name_ranks({1, 2, 3}, {"a", "b", "b", "a"}), "ranks 1, 2, 3 (hosts b, a)");
  EXPECT_EQ(name_ranks({0}, {"a", "b"}), "rank 0 (host a)");
}

}  // namespace
}  // namespace lockstep
