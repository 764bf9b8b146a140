#include "world/flight_record.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace lockstep {
namespace {

using Clock = FlightRecord::Clock;

TEST(FlightRecord, KeepsTheLast200OperationsInOrder) {
  FlightRecord record;
  const Clock::time_point start{};
  for (uint64_t i = 1; i <= 300; ++i) {
    record.begun(i, "all-reduce", 64, {.doing = "backward", .step = 5, .seconds = 0}, start + std::chrono::seconds(i));
    if (i < 299) record.ended(i, true, start + std::chrono::seconds(i + 1));
    if (i == 299) record.ended(i, false, start + std::chrono::seconds(i + 1));
  }
  record.ended(7, false, start);  // long gone: no other's entry changes
  const auto file = nlohmann::json::parse(
      record.json({.rank = 2, .size = 4, .host = "b", .reason = "why", .where = {"waiting", 6, 1.5}},
                  start + std::chrono::seconds(310)));
  EXPECT_EQ(file["rank"], 2);
  EXPECT_EQ(file["host"], "b");
  EXPECT_EQ(file["doing"], "waiting");
  EXPECT_EQ(file["step"], 6);
  const auto& operations = file["operations"];
  ASSERT_EQ(operations.size(), 200U);
  for (size_t i = 0; i < operations.size(); ++i) EXPECT_EQ(operations[i]["number"], 101 + i);
  EXPECT_EQ(operations[0]["state"], "done");
  EXPECT_EQ(operations[0]["ended_s_ago"], 208.0);
  EXPECT_EQ(operations[198]["state"], "failed");
  EXPECT_EQ(operations[199]["state"], "under way");
  EXPECT_EQ(operations[199]["begun_s_ago"], 10.0);
  EXPECT_FALSE(operations[199].contains("ended_s_ago"));
}

}  // namespace
}  // namespace lockstep
