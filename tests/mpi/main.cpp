// Runs all tests on every rank. Only failures are printed by ranks other than 0; the job fails when any rank does.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "mpi_main.h"

namespace {

lockstep::World* the_world = nullptr;

class OnlyFailures : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    fmt::print(stderr, "rank {}: {}:{}: {}\n", the_world->rank(),
               result.file_name() != nullptr ? result.file_name() : "?", result.line_number(), result.message());
  }
};

}  // namespace

lockstep::World& lockstep::world() { return *the_world; }

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lockstep::World world({.threads = 1});
  the_world = &world;
  if (world.rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new OnlyFailures);
  }
  int64_t failed = RUN_ALL_TESTS() == 0 ? 0 : 1;
  world.sum(std::span(&failed, 1));
  return failed == 0 ? 0 : 1;
}
