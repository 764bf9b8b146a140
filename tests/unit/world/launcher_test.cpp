#include "world/launcher.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace lockstep {
namespace {

class Launcher : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID",
                             "SLURM_STEP_NUM_TASKS"}) {
      unsetenv(name);
    }
  }
};

TEST_F(Launcher, AloneIsRankZero) {
  EXPECT_EQ(launcher_rank(), 0);
  EXPECT_EQ(launcher_size(), 1);
  EXPECT_EQ(unseen_tasks(1), 0);
}

TEST_F(Launcher, OpenMpiSaysTheRank) {
  setenv("OMPI_COMM_WORLD_RANK", "3", 1);
  EXPECT_EQ(launcher_rank(), 3);
  setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
  EXPECT_EQ(launcher_size(), 4);
}

TEST_F(Launcher, SrunTasksThatEachThinkTheyAreAloneAreNoticed) {
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  setenv("SLURM_PROCID", "2", 1);
  EXPECT_EQ(launcher_rank(), 2);
  EXPECT_EQ(launcher_size(), 4);
  EXPECT_EQ(unseen_tasks(1), 4);
  EXPECT_EQ(unseen_tasks(4), 0);
}

TEST_F(Launcher, MpirunInsideABatchJobIsNotMistakenForSrun) {
  setenv("SLURM_STEP_NUM_TASKS", "2", 1);  // mpirun's own daemons, one a node
  setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
  EXPECT_EQ(unseen_tasks(1), 0);
}

}  // namespace
}  // namespace lockstep
