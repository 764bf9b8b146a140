#include "train/plan.h"

#include <gtest/gtest.h>

#include "lockstep/error.h"

namespace lockstep {
namespace {

TEST(Plan, TwoRanksShareTheGlobalBatchAndTheShortLastOne) {
  const Plan plan = make_plan(Settings{}, 2, 50'000, 25'000);
  EXPECT_EQ(plan.batch_per_rank, 32);
  EXPECT_EQ(plan.steps_per_epoch, 782);
  EXPECT_EQ(plan.total_steps, 7820);
}

TEST(Plan, MaxStepsEndsTheRunEarlyButNeverLengthensIt) {
  Settings settings;
  settings.train_max_steps = 60;
  EXPECT_EQ(make_plan(settings, 1, 50'000, 50'000).total_steps, 60);
  settings.train_max_steps = 1'000'000;
  EXPECT_EQ(make_plan(settings, 1, 50'000, 50'000).total_steps, 7820);
}

TEST(Plan, RefusesABatchThatTheRanksDoNotDivide) {
  try {
    make_plan(Settings{}, 3, 50'000, 16'667);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(error.hint().find("train.global_batch=63"), std::string::npos) << error.hint();
  }
}

TEST(Plan, RefusesMoreRanksThanImages) {
  try {
    make_plan(Settings{}, 4, 3, 1);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::launch);
  }
}

}  // namespace
}  // namespace lockstep
