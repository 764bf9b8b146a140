#include "world/launcher.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace lockstep {
namespace {

class Launcher : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID",
                             "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "OMPI_COMM_WORLD_LOCAL_SIZE"}) {
      unsetenv(name);
    }
  }
};

TEST_F(Launcher, AloneIsRankZero) {
  EXPECT_EQ(launcher_rank(), 0);
  EXPECT_EQ(unseen_tasks(1), 0);
}

TEST_F(Launcher, OpenMpiSaysTheRank) {
  setenv("OMPI_COMM_WORLD_RANK", "3", 1);
  EXPECT_EQ(launcher_rank(), 3);
}

TEST_F(Launcher, SrunTasksThatEachThinkTheyAreAloneAreNoticed) {
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  setenv("SLURM_PROCID", "2", 1);
  EXPECT_EQ(launcher_rank(), 2);
  EXPECT_EQ(unseen_tasks(1), 4);
  EXPECT_EQ(unseen_tasks(4), 0);
}

TEST_F(Launcher, MpirunInsideABatchJobIsNotMistakenForSrun) {
  setenv("SLURM_STEP_NUM_TASKS", "2", 1);  // mpirun's own daemons, one a node
  setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
  EXPECT_EQ(unseen_tasks(1), 0);
}

TEST_F(Launcher, SeveralHostsAreSeenUnderMpirunAndSrun) {
  EXPECT_FALSE(launched_on_several_hosts());
  setenv("SLURM_STEP_NUM_NODES", "2", 1);
  EXPECT_TRUE(launched_on_several_hosts());
  setenv("OMPI_COMM_WORLD_SIZE", "4", 1);  // mpirun inside a batch job: it says itself where its ranks are
  setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "4", 1);
  EXPECT_FALSE(launched_on_several_hosts());
  setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
  EXPECT_TRUE(launched_on_several_hosts());
}

}  // namespace
}  // namespace lockstep
