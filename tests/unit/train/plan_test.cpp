#include "train/plan.h"

#include <gtest/gtest.h>

#include "lockstep/error.h"

namespace lockstep {
namespace {

ExitCode code_of(const Settings& settings, int ranks, int64_t images = 50'000) {
  try {
    make_plan(settings, ranks, images);
  } catch (const Error& error) {
    return error.code();
  }
  return ExitCode::done;
}

TEST(Plan, TwoRanksShareTheGlobalBatchAndTheShortLastOne) {
  const Plan plan = make_plan(Settings{}, 2, 50'000);
  EXPECT_EQ(plan.most_per_rank, 32);
  EXPECT_EQ(plan.least_per_rank, 32);
  EXPECT_EQ(plan.steps_per_epoch, 782);
  EXPECT_EQ(plan.total_steps, 7820);
}

TEST(Plan, MaxStepsEndsTheRunEarlyButNeverLengthensIt) {
  Settings settings;
  settings.train_max_steps = 60;
  EXPECT_EQ(make_plan(settings, 1, 50'000).total_steps, 60);
  settings.train_max_steps = 1'000'000;
  EXPECT_EQ(make_plan(settings, 1, 50'000).total_steps, 7820);
}

TEST(Plan, SchedulesCountTheStepsOfAllEpochsWhateverMaxStepsSays) {
  Settings settings;
  settings.train_max_steps = 60;
  EXPECT_EQ(make_plan(settings, 1, 50'000).scheduled_steps, 7820);
}

TEST(Plan, MicroBatchesCutSharesIntoAsManyPassesAsTheyNeed) {
  Settings settings;
  settings.train_global_batch = 2000;
  settings.train_micro_batch = 250;
  EXPECT_EQ(make_plan(settings, 1, 50'000).accumulate, 8);
  EXPECT_EQ(make_plan(settings, 2, 50'000).accumulate, 4);
  EXPECT_EQ(make_plan(settings, 3, 50'000).accumulate, 3);
  EXPECT_EQ(make_plan(settings, 16, 50'000).accumulate, 1);
  settings.train_accumulate = 5;
  EXPECT_EQ(make_plan(settings, 2, 50'000).accumulate, 5);
  settings.train_accumulate = 1;
  settings.train_micro_batch = 1;
  EXPECT_EQ(make_plan(settings, 3, 50'000).accumulate, 666);  // no pass without an image
}

TEST(Plan, ThreeRanksTake22And21And21ImagesAndNothingTwice) {
  const Plan plan = make_plan(Settings{}, 3, 50'000);
  EXPECT_EQ(plan.most_per_rank, 22);
  EXPECT_EQ(plan.least_per_rank, 21);
  EXPECT_FALSE(plan.padded);
  EXPECT_EQ(plan.images_per_epoch, 50'000);
  EXPECT_EQ(plan.steps_per_epoch, 782);
}

TEST(Plan, WhereTheRanksDivideTheBatchAnEpochIsPaddedAsInPyTorch) {
  Settings settings;
  settings.train_global_batch = 63;
  const Plan plan = make_plan(settings, 3, 50'000);
  EXPECT_TRUE(plan.padded);
  EXPECT_EQ(plan.images_per_epoch, 50'001);
}

TEST(Plan, VirtualRanksMakeShardsOfTheirOwnAndNoPadding) {
  Settings settings;
  settings.train_virtual_ranks = 8;
  const Plan plan = make_plan(settings, 2, 50'001);
  EXPECT_EQ(plan.shards, 8);
  EXPECT_EQ(plan.shards_per_rank, 4);
  EXPECT_EQ(plan.most_per_rank, 32);
  EXPECT_FALSE(plan.padded);
}

TEST(Plan, RefusesWhatCannotBeDealt) {
  EXPECT_EQ(code_of(Settings{}, 4, 3), ExitCode::launch) << "more ranks than images";
  Settings settings;
  settings.train_global_batch = 2;
  EXPECT_EQ(code_of(settings, 3), ExitCode::launch) << "more ranks than images in a step";
  settings = {};
  settings.train_virtual_ranks = 4;
  EXPECT_EQ(code_of(settings, 3), ExitCode::launch) << "ranks that do not divide the virtual ones";
  EXPECT_EQ(code_of(settings, 8), ExitCode::launch) << "more ranks than virtual ones";
  settings.train_virtual_ranks = 6;
  EXPECT_EQ(code_of(settings, 2), ExitCode::launch) << "no power of two";
  settings = {};
  settings.train_accumulate = 33;
  EXPECT_EQ(code_of(settings, 2), ExitCode::usage) << "more passes than images of a share";
}

}  // namespace
}  // namespace lockstep
