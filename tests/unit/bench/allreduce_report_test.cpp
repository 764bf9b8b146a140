#include "bench/allreduce_report.h"

#include "../expect_error.h"

namespace lockstep {
namespace {

using test::expect_error;

AllreduceRow row(int64_t bytes, double busbw) {
  AllreduceRow made;
  made.bytes = bytes;
  made.busbw = busbw;
  return made;
}

TEST(AllreduceReport, BusFactorIsThatOfNcclTests) {
  EXPECT_EQ(bus_factor(1), 0);
  EXPECT_EQ(bus_factor(2), 1);
  EXPECT_EQ(bus_factor(4), 1.5);
  EXPECT_EQ(bus_factor(8), 1.75);
}

TEST(AllreduceReport, FloorsAreReadOneByOneOrWithCommas) {
  const auto floors = parse_floors("0.5@1M,2@4");
  ASSERT_EQ(floors.size(), 2);
  EXPECT_EQ(floors[0].busbw, 0.5);
  EXPECT_EQ(floors[0].bytes, 1 << 20);
  EXPECT_EQ(floors[1].busbw, 2);
  EXPECT_EQ(floors[1].bytes, 4);
}

TEST(AllreduceReport, WhatIsNoFloorIsRefused) {
  for (const char* text :
       {"", "0.5", "@1M", "0.5@", "x@1M", "0.5x@1M", "0@1M", "-1@1M", "nan@1M", "inf@1M", "1@1M,", "1@2@3"}) {
    SCOPED_TRACE(text);
    expect_error(ExitCode::usage, {"--floor"}, [&] { parse_floors(text); });
  }
}

TEST(AllreduceReport, AFloorThatIsNeverLookedAtIsRefused) {
  EXPECT_NO_THROW(check_floors_apply({{1, 8}}, {4, 8}, 2));
  EXPECT_NO_THROW(check_floors_apply({}, {4}, 1));
  expect_error(ExitCode::usage, {"--floor 1@16", "does not measure 16"}, [] {
    check_floors_apply({{1, 16}}, {4, 8}, 2);
  });
  expect_error(ExitCode::usage, {"--floor", "one rank"}, [] { check_floors_apply({{1, 8}}, {4, 8}, 1); });
}

TEST(AllreduceReport, AFloorThatIsNotReachedNamesSizeMeasureAndFloor) {
  const std::vector<AllreduceRow> rows = {row(1024, 0.25), row(1 << 20, 3)};
  EXPECT_NO_THROW(check_floors({{0.25, 1024}, {2.9, 1 << 20}}, rows));
  expect_error(ExitCode::too_slow, {"0.25 GB/s at 1k is below the floor of 0.3 GB/s", "3 GB/s at 1M", "of 3.5 GB/s"},
               [&] {
                 check_floors({{0.3, 1024}, {3.5, 1 << 20}}, rows);
               });
}

}  // namespace
}  // namespace lockstep
