#include <gtest/gtest.h>

#include "mpi_main.h"
#include "run_on_all_ranks.h"

namespace {

lockstep::World* the_world = nullptr;

}  // namespace

lockstep::World& lockstep::world() { return *the_world; }

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lockstep::World world({.threads = 1});
  the_world = &world;
  return lockstep::test::run_on_all_ranks(world);
}
