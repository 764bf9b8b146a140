#include "bench/bytes.h"

#include <limits>

#include "../expect_error.h"

namespace lockstep {
namespace {

using test::expect_error;

TEST(Bytes, SuffixesArePowersOf1024InEitherCase) {
  EXPECT_EQ(parse_bytes("4", "--min"), 4);
  EXPECT_EQ(parse_bytes("0", "--min"), 0);
  EXPECT_EQ(parse_bytes("64k", "--min"), 65536);
  EXPECT_EQ(parse_bytes("64K", "--min"), 65536);
  EXPECT_EQ(parse_bytes("256M", "--min"), 268435456);
  EXPECT_EQ(parse_bytes("3m", "--min"), 3145728);
  EXPECT_EQ(parse_bytes("2G", "--min"), int64_t{2} << 30);
  EXPECT_EQ(parse_bytes("2g", "--min"), int64_t{2} << 30);
}

TEST(Bytes, WhatIsNoSizeIsRefusedWithItsFlag) {
  for (const char* text :
       {"", "k", "-4", "4kB", "4 k", "1.5M", "0x10", "4T", "1073741825G", "99999999999999999999", "4\n"}) {
    expect_error(ExitCode::usage, {text, "--max"}, [&] { parse_bytes(text, "--max"); });
  }
}

TEST(Bytes, TextIsTheShortestThatReadsBack) {
  EXPECT_EQ(bytes_text(0), "0");
  EXPECT_EQ(bytes_text(1000), "1000");
  EXPECT_EQ(bytes_text(1024), "1k");
  EXPECT_EQ(bytes_text(1536), "1536");
  EXPECT_EQ(bytes_text(int64_t{256} << 20), "256M");
  EXPECT_EQ(bytes_text(int64_t{2048} << 30), "2048G");
}

TEST(Bytes, ASweepEndsAtTheLargestSizeThatFits) {
  EXPECT_EQ(sweep_sizes(4, 4, 2), (std::vector<int64_t>{4}));
  EXPECT_EQ(sweep_sizes(4, 32, 2), (std::vector<int64_t>{4, 8, 16, 32}));
  EXPECT_EQ(sweep_sizes(4, 31, 2), (std::vector<int64_t>{4, 8, 16}));
  EXPECT_EQ(sweep_sizes(12, 1200, 10), (std::vector<int64_t>{12, 120, 1200}));
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(sweep_sizes(most / 3, most, 3).size(), 2) << "no overflow";
}

}  // namespace
}  // namespace lockstep
