// Runs the tests of a program on every rank of a job.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <span>

#include "lockstep/world.h"

namespace lockstep::test {

class OnlyFailures : public testing::EmptyTestEventListener {
 public:
  explicit OnlyFailures(int rank) : rank_(rank) {}

 private:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    fmt::print(stderr, "rank {}: {}:{}: {}\n", rank_, result.file_name() != nullptr ? result.file_name() : "?",
               result.line_number(), result.message());
  }

  int rank_;
};

/// Collective: 0 when all tests passed on all ranks. Only failures are printed by ranks other than 0.
inline int run_on_all_ranks(World& world) {
  if (world.rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new OnlyFailures(world.rank()));
  }
  int64_t failed = RUN_ALL_TESTS() == 0 ? 0 : 1;
  world.sum(std::span(&failed, 1));
  return failed == 0 ? 0 : 1;
}

}  // namespace lockstep::test
