#include "world/launcher.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <string>
#include <utility>

namespace lockstep {
namespace {

using Variables = std::initializer_list<std::pair<const char*, const char*>>;

class Launcher : public testing::Test {
 protected:
  void SetUp() override { forget(); }
  void TearDown() override { forget(); }

  static void forget() {
    for (const char* name :
         {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "PMI_ID",
          "MPI_LOCALNRANKS", "MPI_LOCALRANKID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "FLUX_JOB_ID",
          "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "HOROVOD_SIZE", "HOROVOD_RANK"}) {
      unsetenv(name);
    }
  }

  static void set(Variables variables) {
    forget();
    for (const auto& [name, value] : variables) setenv(name, value, 1);
  }

  // How many tasks are noticed before MPI starts; 0: none.
  static int noticed(Variables variables) {
    set(variables);
    const auto separate = separate_tasks(0);
    return separate ? separate->tasks : 0;
  }
};

TEST_F(Launcher, AloneIsRankZero) {
  EXPECT_EQ(launcher_rank(), 0);
  EXPECT_EQ(launcher_size(), 1);
  EXPECT_FALSE(separate_tasks(0));
  EXPECT_FALSE(separate_tasks(1));
}

TEST_F(Launcher, OpenMpiSaysTheRank) {
  set({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"}});
  EXPECT_EQ(launcher_rank(), 3);
  EXPECT_EQ(launcher_size(), 4);
}

TEST_F(Launcher, TasksThatEachThinkTheyAreAloneAreNoticedBeforeMpiStarts) {
  EXPECT_EQ(noticed({{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "2"}}), 4);
  EXPECT_EQ(launcher_rank(), 2);
  EXPECT_EQ(launcher_size(), 4);
  EXPECT_EQ(noticed({{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"TORCHELASTIC_RUN_ID", "none"}}), 2);
  EXPECT_EQ(launcher_rank(), 1);
  EXPECT_EQ(noticed({{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"LOCAL_RANK", "1"}}), 2);
  EXPECT_EQ(noticed({{"PMI_SIZE", "3"}, {"PMI_RANK", "2"}}), 3);
  EXPECT_EQ(launcher_rank(), 2);
  EXPECT_EQ(noticed({{"MPI_LOCALNRANKS", "2"}, {"MPI_LOCALRANKID", "1"}}), 2);
  EXPECT_EQ(launcher_rank(), 1);
  EXPECT_EQ(noticed({{"HOROVOD_SIZE", "2"}, {"HOROVOD_RANK", "1"}}), 2);
  EXPECT_EQ(launcher_rank(), 1);
}

TEST_F(Launcher, TorchrunUnderMpirunMakesMoreProcessesThanMpiKnows) {
  EXPECT_EQ(noticed({{"OMPI_COMM_WORLD_SIZE", "1"},
                     {"OMPI_COMM_WORLD_RANK", "0"},
                     {"WORLD_SIZE", "2"},
                     {"RANK", "1"},
                     {"TORCHELASTIC_RUN_ID", "none"}}),
            2);
  EXPECT_EQ(launcher_rank(), 1);
  EXPECT_EQ(noticed({{"PMIX_RANK", "0"},
                     {"SLURM_STEP_NUM_TASKS", "2"},
                     {"WORLD_SIZE", "4"},
                     {"RANK", "1"},
                     {"TORCHELASTIC_RUN_ID", "none"}}),
            4);
}

TEST_F(Launcher, VariablesThatWereOnlyInheritedAreNoLauncher) {
  EXPECT_EQ(noticed({{"WORLD_SIZE", "1"}, {"RANK", "0"}, {"LOCAL_RANK", "0"}, {"TORCHELASTIC_RUN_ID", "none"}}), 0);
  EXPECT_EQ(noticed({{"WORLD_SIZE", "8"}}), 0);
  EXPECT_EQ(noticed({{"WORLD_SIZE", ""}, {"RANK", "x"}, {"LOCAL_RANK", "0"}}), 0);
  EXPECT_EQ(noticed({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}}), 0) << "a batch script, or a shell of salloc";
  EXPECT_EQ(noticed({{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}}), 0);
  EXPECT_EQ(noticed({{"PMI_SIZE", "1"}, {"PMI_RANK", "0"}}), 0);
}

TEST_F(Launcher, WhatMpiJoinsIsOneJob) {
  EXPECT_EQ(noticed({{"OMPI_COMM_WORLD_SIZE", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}}), 0)
      << "mpirun's own daemons, one a node";
  EXPECT_FALSE(separate_tasks(1));
  EXPECT_EQ(noticed({{"OMPI_COMM_WORLD_SIZE", "2"}, {"WORLD_SIZE", "2"}, {"RANK", "1"}, {"LOCAL_RANK", "1"}}), 0)
      << "exported for the program by its user";
  EXPECT_EQ(noticed({{"PMIX_RANK", "1"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "1"}}), 0);
  EXPECT_FALSE(separate_tasks(4));
  EXPECT_EQ(noticed({{"FLUX_JOB_ID", "f1"}, {"PMI_SIZE", "2"}, {"PMI_RANK", "1"}}), 0);
}

TEST_F(Launcher, TasksThatMpiHasNotJoinedAreNoticedWhenItHasStarted) {
  set({{"PMIX_RANK", "1"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "1"}});
  const auto separate = separate_tasks(1);
  ASSERT_TRUE(separate);
  EXPECT_EQ(separate->tasks, 4);
  EXPECT_EQ(separate->rank, 1);
}

}  // namespace
}  // namespace lockstep
