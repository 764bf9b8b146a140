#include "bench/operators.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace lockstep {
namespace {

const OperatorTime* find(const std::vector<OperatorTime>& all, const std::string& name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const OperatorTime& one) { return one.name == name; });
  return found == all.end() ? nullptr : &*found;
}

double sum_of(const std::vector<OperatorTime>& all) {
  double sum = 0;
  for (const OperatorTime& one : all) sum += one.self_s;
  return sum;
}

TEST(OperatorTimes, CountAnOperatorsOwnTimeOnce) {
  const at::Tensor x = at::randn({256, 256});
  const at::Tensor bias = at::randn({256});
  const auto start = std::chrono::steady_clock::now();
  OperatorTimes times;
  for (int i = 0; i < 20; ++i) at::linear(x, x, bias);  // calls addmm, which does the work
  const auto all = times.stop();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  ASSERT_NE(find(all, "aten::linear"), nullptr);
  ASSERT_NE(find(all, "aten::addmm"), nullptr);
  EXPECT_EQ(find(all, "aten::linear")->calls, 20);
  EXPECT_EQ(find(all, "aten::addmm")->calls, 20);
  EXPECT_GT(find(all, "aten::addmm")->self_s, find(all, "aten::linear")->self_s);
  EXPECT_LE(sum_of(all), seconds);
  EXPECT_EQ(all.back().name, "(no operator)");
}

TEST(OperatorTimes, CountOtherThreadsAndNothingAfterStop) {
  const at::Tensor x = at::randn({8, 8});
  OperatorTimes times;
  std::thread([&] { at::linear(x, x); }).join();
  const auto all = times.stop();
  at::linear(x, x);
  ASSERT_NE(find(all, "aten::linear"), nullptr);
  EXPECT_EQ(find(all, "aten::linear")->calls, 1);
  EXPECT_EQ(OperatorTimes().stop().size(), 1U);
}

TEST(OperatorsTable, ShowsFifteenAndTheRest) {
  std::vector<OperatorTime> all;
  for (int i = 0; i < 20; ++i) all.push_back({.name = "op" + std::to_string(i), .calls = 4, .self_s = 0.0475});
  all.push_back({.name = "(no operator)", .calls = 0, .self_s = 0.05});
  const std::string text = operators_table(all, 2);
  EXPECT_THAT(text, testing::ContainsRegex("op14 +23.750 +2.0 +4.8 %"));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("op15")));
  EXPECT_THAT(text, testing::ContainsRegex("5 others +118.750 +10.0 +23.8 %"));
  EXPECT_THAT(text, testing::ContainsRegex("no operator. +25.000 +0.0 +5.0 %"));
}

}  // namespace
}  // namespace lockstep
