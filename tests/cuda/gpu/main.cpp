// Tests that need a GPU on every rank. Only failures are printed by ranks other than 0; the job fails when any rank
// does.
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "../../mpi/run_on_all_ranks.h"
#include "gpu_world.h"
#include "lockstep/world.h"

namespace lockstep {
namespace {

World* the_world = nullptr;

}  // namespace

World& world() { return *the_world; }

}  // namespace lockstep

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lockstep::World world({.threads = 1, .deadline_s = 60, .device = lockstep::DeviceWish::cuda});
  lockstep::the_world = &world;
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowTF32CuDNN(false);
  return lockstep::test::run_on_all_ranks(world);
}
